"""Runs that do not fit together go over the activations one group after the other."""

import pytest

import reseed
from reseed.spec.training import RunSpec, TrainingSpec
from reseed.study import Study
from reseed.training import stage
from reseed.training.device import free_memory, learner_bytes, passes


def runs(count, latents=1000, control=None, **sae):
    training = TrainingSpec(tokens=100, batch=10)
    return [
        RunSpec(
            data="", site="x", sae={"latents": latents, **sae}, training=training, init_seed=i,
            data_seed=0, control=control,
        )
        for i in range(count)
    ]  # fmt: skip


def rounded(screen):
    """Encoder rows that are kept for products."""
    import torch

    if screen.whole is not None:
        return [torch.from_numpy(screen.whole.numbers)]
    return [] if screen.halves is None else [screen.halves]


def test_what_a_learner_takes_is_what_it_holds():
    """Counted on a learner itself."""
    import torch

    from reseed.training.learner import Learner

    for control in (None, "soft_frozen_decoder"):
        run = runs(1, latents=64, control=control)[0]
        learner = Learner(run, torch.randn(10, 32))
        held = [v for v in learner.state().values() if v.numel() >= 64 * 32]
        held += rounded(learner._path._screen)
        held += [learner._near] if learner._near is not None else []
        total = sum(v.numel() * v.element_size() for v in held)
        short = 0 if rounded(learner._path._screen) else 2 * 64 * 32
        assert total + short == learner_bytes(run, 32)


def test_gradients_count_where_they_are_made_whole():
    least = learner_bytes(runs(1)[0], 10)
    a_weight = least // 26
    for name, more in (("batchtopk", 0), ("matryoshka", 0), ("relu", 8), ("jumprelu", 8),
                       ("gated", 8), ("panneal", 16), ("groupmax", 16)):  # fmt: skip
        own = {"k": 40} if name == "groupmax" else {}
        assert learner_bytes(runs(1, architecture=name, **own)[0], 10) == least + more * a_weight
    for option in ({"multi_topk": True}, {"weight_l2": 0.1}, {"optimizer": "muon"}):
        assert learner_bytes(runs(1, **option)[0], 10) == least + 16 * a_weight


def test_groups_are_as_large_as_fit():
    size = learner_bytes(runs(1)[0], 10)
    for room, expected in ((2.0, [2, 2, 1]), (5.0, [5]), (0.5, [1] * 5), (None, [5])):
        free = None if room is None else int(room * size / 0.8) + 1
        found = passes(runs(5), {"x": 10}, free)
        assert [len(group) for group in found] == expected
        assert [run for group in found for run in group] == runs(5)
    assert passes([], {"x": 10}, 100) == []


@pytest.mark.parametrize(
    ("meminfo", "limit", "used", "expected"),
    [
        ("MemTotal: 9 kB\nMemAvailable: 100 kB\n", None, None, 102_400),
        ("MemAvailable: 100 kB\n", "max", "5", 102_400),
        ("MemAvailable: 100 kB\n", "5000", "1000", 4000),
    ],
)
def test_free_memory_counts_the_limit_of_a_container(tmp_path, meminfo, limit, used, expected):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text(meminfo)
    if limit is not None:
        group = tmp_path / "sys/fs/cgroup"
        group.mkdir(parents=True)
        (group / "memory.max").write_text(limit + "\n")
        (group / "memory.current").write_text(used + "\n")
    assert free_memory(tmp_path) == expected


def test_free_memory_here():
    found = free_memory()
    assert found is None or found > 0


def test_split_passes_give_the_same_study(write_study, finished, tree, monkeypatch):
    study = Study.load(write_study("tiny"))
    together = []
    plain = stage.train_all
    monkeypatch.setattr(stage, "free_memory", lambda: 1)
    monkeypatch.setattr(
        stage, "train_all", lambda w, *a, **k: (together.append(len(w)), plain(w, *a, **k))
    )
    reseed.run(study, progress=False)
    assert together == [1, 1]
    whole = tree(finished)
    made = {n: v for n, v in tree(study.folder).items() if n.startswith("runs")}
    assert len(made) > 10
    assert made.items() <= whole.items()
