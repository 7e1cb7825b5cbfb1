"""Pieces of work are all done, by threads whose products are their own."""

import threading

import pytest
import torch

from reseed.loops import compiled as workers


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_each_piece_is_done_once(threads):
    done = []
    workers.run(done.append, range(50), threads)
    assert sorted(done) == list(range(50))


def test_products_inside_take_one_thread_and_outside_as_many_as_before():
    before = torch.get_num_threads()
    both, inside = threading.Barrier(2), []

    def work(_):
        both.wait(timeout=60)
        inside.append(torch.get_num_threads())

    workers.run(work, range(2), 2)
    assert inside == [1, 1]
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("threads", [1, 2])
def test_what_fails_is_raised(threads):
    def work(piece):
        if piece == 3:
            raise ValueError("three")

    with pytest.raises(ValueError, match="three"):
        workers.run(work, range(6), threads)
