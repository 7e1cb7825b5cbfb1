"""BatchSource of a run by number, from its first on and from its last back."""

import torch

from reseed.spec.training import RunSpec, TrainingSpec
from reseed.training.learner import RunBatches

RUN = RunSpec(
    data="",
    site="x",
    sae={"architecture": "transcoder", "latents": 4, "k": 2, "target": "y"},
    training=TrainingSpec(tokens=50, batch=10),
    init_seed=0,
    data_seed=0,
)


def test_first_and_last():
    batches = RunBatches(RUN, lambda n: {"x": torch.tensor(n), "y": torch.tensor(-n)})
    assert [int(b.x) for b in batches.first(21)] == [0, 1, 2]
    assert [int(b.y) for b in batches.last(20)] == [-4, -3]
    assert [int(b.x) for b in batches.last(1000)] == [4, 3, 2, 1, 0]
