"""Helper threads that leave the model's threads alone."""

from collections.abc import Callable

import torch


def settle_helper(run_there: Callable[[Callable[[], None]], None]) -> None:
    """Have torch compute on one thread in a helper thread; `run_there` runs a call in it and waits.

    By default every thread that uses torch gets a team of OpenMP threads of its own. The teams are then more than the cores,
    and those of the model, which spin while they wait for each other, go to sleep instead, even where the other team does
    nothing: forward passes beside such a helper took 15 % longer (SmolLM2-135M, two cores).
    """
    run_there(_use_one_thread)
    torch.set_num_threads(torch.get_num_threads())  # torch keeps one number for all threads to come: ours again


def _use_one_thread() -> None:
    torch.get_num_threads()  # what torch sets up at a thread's first operation would undo the next line later
    torch.set_num_threads(1)
