"""The common threshold against a sort of everything."""

import pytest
import torch

from reseed.sae.codes import common_threshold


@pytest.mark.parametrize("k", [1, 4, 19])
def test_it_is_the_entry_at_n_times_k_of_all(k):
    generator = torch.Generator().manual_seed(k)
    parts = [
        torch.randn(n, 20, generator=generator) + shift for n, shift in [(7, 0), (9, 3), (4, 0)]
    ]
    found = common_threshold(iter(parts), k, 25)
    whole = torch.relu(torch.cat(parts)).flatten().sort(descending=True).values
    assert found == whole[20 * k - 1]
    if found > 0:
        assert int((torch.cat(parts) > found).sum()) == 20 * k - 1


def test_it_is_zero_where_too_few_are_positive():
    parts = [-torch.ones(5, 4), torch.tensor([[1.0, 2.0, -1.0, -1.0]])]
    assert common_threshold(parts, 2, 6) == 0
    assert common_threshold([], 2, 6) == 0
