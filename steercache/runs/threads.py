"""Threads of torch: a build leaves the caller's as they were, and a helper's leave the model's alone."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


@contextmanager
def threads_restored() -> Iterator[None]:
    """Whatever number of threads the block sets, torch has the caller's again afterwards."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def settle_helper(run_there: Callable[[Callable[[], None]], None]) -> None:
    """Have torch compute on one thread in a helper thread; `run_there` runs a call in it and waits.

    By default every thread that uses torch gets its own team of OpenMP threads. The teams are then more than the cores,
    and those of the model, which spin while they wait for each other, go to sleep instead, even where the other team does
    nothing: forward passes beside such a helper took 15 % longer (SmolLM2-135M, two cores).
    """
    run_there(_use_one_thread)
    torch.set_num_threads(torch.get_num_threads())  # torch keeps one number for all threads to come: ours again


def _use_one_thread() -> None:
    torch.get_num_threads()  # what torch sets up at a thread's first operation would undo the next line later
    torch.set_num_threads(1)
