"""A run is the same bits on 1, 2 and 4 ranks, and the single step to rounding."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.shards import SharedRun
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tests.processes import RESEED, child, until
from tests.training.shards import rank

from reseed.errors import SpecError
from reseed.sae.above import where
from reseed.sae.codes import Codes, batch_top, codes_of, dense
from reseed.spec.training import RunSpec
from reseed.training.device import sharing
from reseed.training.learner import Learner, RunBatches
from reseed.training.shards.launch import command
from reseed.training.shards.learner import BlockLearner, refuse_device
from reseed.training.shards.own_latents import cut, cut_batch
from reseed.training.shards.ranks import RankGroup, prefixes, tree
from reseed.training.shards.step import own_blocks
from reseed.training.step.sparse import by_row

ALONE = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    done = subprocess.run(
        [sys.executable, rank.__file__, folder], env=ALONE, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("name", rank.RULES)
def test_any_number_of_ranks_gives_the_same_bits(shared, name):
    """Every code ties with that of a latent on another rank; 2 ranks are continued by 4."""
    alone, four, resumed = (load_file(shared / f"{name}-{way}") for way in ("1", "4", "2-4"))
    for key, value in alone.items():
        assert torch.equal(value, four[key]), key
        assert torch.equal(value, resumed[key]), key
    fvu, l0, dead = alone["metrics"].tolist()
    assert 0 < fvu < 0.9
    if name == "jumprelu":
        assert 0.5 < l0 < rank.LATENTS / 4
        assert len(alone["threshold"].unique()) > rank.LATENTS / 4  # they have learnt
        return
    assert l0 == round(rank.RULES[name]["k"] * rank.BATCH) / rank.BATCH
    assert dead > 0  # so that dead latents learned from the auxiliary loss


def test_a_damaged_part_is_named_with_its_rank(shared):
    text = (shared / "damaged").read_text()
    assert text.startswith("rank 3: ")
    assert "00000100-0003.safetensors" in text


def test_what_is_sent_is_what_the_model_says(shared):
    sent = {name: int(count) for name, count in load_file(shared / "sent").items()}
    run = SharedRun(latents=rank.LATENTS, dimensions=rank.D, batch=rank.BATCH, k=3, ranks=4)
    assert sent.pop("numbers") < 200  # counts and norms, and a check of weights
    assert sent == run.sent()
    assert not SharedRun(latents=64, dimensions=8, batch=8, k=2).sent()


def both(name, **sae):
    """The same run by the single step and in blocks."""
    spec = rank.run(name, **sae)
    plain = spec.model_copy(update={"sae": spec.sae.model_copy(update={"blocks": 1})})
    batches = RunBatches(spec, lambda n: {"x": rank.rows(n)})
    return Learner(plain, rank.rows(0)), BlockLearner.lead(
        spec, rank.rows(0), RankGroup(), batches=batches
    )


@pytest.mark.parametrize("name", rank.RULES)
def test_codes_are_those_of_the_single_step_and_losses_to_rounding(name, monkeypatch):
    for module in ("reseed.training.learner", "reseed.training.shards.learner"):
        start = sys.modules[module].first_parameters
        monkeypatch.setattr(f"{module}.first_parameters", rank.twins(start))
    # what is above 7 % goes through whole matrices there, and their entries are none
    monkeypatch.setattr("reseed.training.step.finding.DENSE_FROM", 1.0)
    single, blocks = both(name)
    for step in range(30):
        x = rank.rows(step)
        if step % 10 == 0:  # from the same weights on, codes are equal and not only close
            for key, value in blocks.parameters.items():
                value.copy_(single.parameters[key])
            for block in blocks._sharded.blocks.values():
                block.restore(block.state())
        a, b = single.look(x), blocks.look(x)
        if step % 10 == 0:
            ours = [block._gradients.entries for block in blocks._sharded.blocks.values()]
            theirs = single._path._gradients.entries
            assert np.array_equal(np.concatenate([e.rows for e in ours]), theirs.rows)
            assert np.array_equal(np.concatenate([e.values for e in ours]), theirs.values)
            assert torch.equal(a.fired, b.fired)
        assert b.fvu == pytest.approx(a.fvu, rel=1e-5)
        assert b.norm == pytest.approx(a.norm, rel=1e-4)
        assert single.apply(a, len(x))["dead"] == pytest.approx(blocks.apply(b, len(x))["dead"])


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([1, 2, 4]), st.integers(1, 9), st.integers(1, 12), st.data())
def test_the_cut_over_ranks_is_that_of_all_codes(parts, each, k, data):
    levels = st.lists(st.integers(-2, 3), min_size=parts * each, max_size=parts * each)
    pre = torch.tensor(data.draw(st.lists(levels, min_size=1, max_size=5))).float()
    k = min(k, pre.shape[1])
    own = [best(part, min(k, each)) for part in pre.split(each, 1)]
    everywhere = dense(best(pre, k), pre.shape[1])
    wanted = everywhere.split(each, 1)
    for codes, listed in zip(wanted, cut(own, k, RankGroup(), "test"), strict=True):
        assert torch.equal(filled(listed, len(pre), each), codes)
    lists = [codes.values.sort(dim=1, descending=True).values for codes in own]
    padded = torch.stack([torch.nn.functional.pad(v, (0, k - v.shape[1])) for v in lists])
    assert torch.equal(prefixes(padded, k), torch.stack([(c > 0).sum(1) for c in wanted]))


def best(pre, k):
    """The k largest of each row; among equals the lowest latents."""
    codes = torch.relu(pre)
    latents = codes.sort(dim=1, descending=True, stable=True).indices[:, :k].sort(dim=1).values
    return Codes(codes.gather(1, latents), latents)


def filled(listed, rows, latents):
    out = torch.zeros(rows, latents)
    row = np.repeat(np.arange(rows), np.diff(listed.starts))
    out[row, listed.latents] = torch.from_numpy(listed.values)
    return out


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([1, 2, 4]), st.integers(1, 8), st.sampled_from([0.5, 1, 2.5]), st.data())
def test_the_cut_of_a_batch_is_that_of_all_codes(parts, each, k, data):
    levels = st.lists(st.integers(-2, 3), min_size=parts * each, max_size=parts * each)
    pre = torch.tensor(data.draw(st.lists(levels, min_size=1, max_size=6))).float() / 3
    lists = [_positive(by_row(codes_of(torch.relu(part)))) for part in pre.split(each, 1)]
    chosen = cut_batch(lists, k, pre.shape[1], RankGroup())
    codes = [filled(listed, len(pre), each) for listed in chosen]
    assert torch.equal(torch.cat(codes, 1), batch_top(pre, k))


def _positive(codes):
    return where(codes, codes.values > 0)


def test_sums_are_made_in_one_tree():
    parts = list(torch.rand(8, 5).unbind())
    halves = tree([tree(parts[:4]), tree(parts[4:])])
    assert torch.equal(tree(parts), halves)
    assert torch.equal(halves, tree([tree(parts[i : i + 2]) for i in (0, 2, 4, 6)]))


def test_blocks_are_part_of_a_run_unless_there_is_one():
    assert rank.run("topk", blocks=1).id != rank.run("topk").id
    assert "blocks" not in rank.run("batchtopk", blocks=1).identity["sae"]
    assert "blocks4" in rank.run("topk").id
    old = RunSpec.model_validate(
        {
            "data": "",
            "site": "x",
            "sae": {"architecture": "topk", "latents": 64, "k": 4},
            "training": {"tokens": 100, "batch": 10},
            "init_seed": 0,
            "data_seed": 0,
        }
    )
    assert old.id == "x.topk-f64-k4-i0-d0-13d85af1"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"blocks": 3}, "power of two"),
        ({"latents": 30}, "divides latents = 30"),
        ({"weight_l2": 0.1}, "weight_l2 does not go together"),
        ({"optimizer": "muon"}, "optimizer does not go together"),
        ({"multi_topk": True}, "multi_topk does not go together"),
    ],
)
def test_what_has_no_step_in_blocks_is_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        rank.run("topk", **settings)


def test_blocks_that_cannot_be_dealt_out_are_refused():
    ranks = RankGroup()
    ranks.size = 3
    with pytest.raises(SpecError, match=r"blocks = 4 cannot be dealt out to 3 ranks"):
        own_blocks(4, ranks)


def test_a_gpu_is_refused_before_any_work():
    with pytest.raises(SpecError, match=r"blocks = 4 has a step for CPUs alone"):
        refuse_device(rank.run("topk"), "cuda")
    refuse_device(rank.run("topk", blocks=1), "cuda")


def test_a_plan_says_when_ranks_should_share_a_run():
    large, small = rank.run("topk", latents=2**20, blocks=1), rank.run("topk", latents=2**17)
    assert "takes 112 GB" in sharing(large, 4096, 80 * 10**9)
    assert "`blocks = 2`" in sharing(large, 4096, 80 * 10**9)
    assert "side by side" in sharing(small, 4096, 80 * 10**9)
    assert sharing(rank.run("topk", blocks=1), 64, 80 * 10**9) is None


STUDY = """
[subject]
kind = "toy"
features = 64
dimensions = 16

[activations]
sites = ["toy"]
tokens = 20_000

[[sae]]
latents = 64
k = 3
blocks = 4

[training]
tokens = 60_000
batch = 64
checkpoint_tokens = 3_200
"""


def saes(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted((folder / "runs").rglob("*.safetensors"))
    }


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ranks_that_are_stopped_go_on_as_others(tmp_path):
    """Under torchrun: 2 ranks get SIGTERM, 4 finish; the study is that of one process."""
    study = tmp_path / "study.toml"
    study.write_text(STUDY)

    def start(count, name):
        arguments = ["run", str(study), "--out", str(tmp_path / name)]
        return child(
            *(command(count, arguments) if count > 1 else (*RESEED, *arguments)), env=ALONE
        )

    shared = tmp_path / "shared"
    with start(1, "alone") as process:
        process.communicate(timeout=280)
        assert process.returncode == 0
    with start(2, "shared") as process:
        until(lambda: list(shared.glob("runs/*.part/*/checkpoint.safetensors")), process)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=120)
    parts = list(shared.glob("runs/*.part/*/checkpoint/*.safetensors"))
    assert len(parts) == 12  # four blocks of three runs
    with start(4, "shared") as process:
        out, _ = process.communicate(timeout=280)
        assert process.returncode == 0, out
    assert saes(tmp_path / "shared") == saes(tmp_path / "alone")
    assert not list(Path(tmp_path / "shared" / "runs").glob("*.part"))
