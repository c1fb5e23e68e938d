"""Copies of a forward pass's values to the host.

On a GPU they run on a stream of their own, into pinned memory (whose blocks torch keeps and uses again), so that the next pass
computes while they are under way; who reads them waits for them first. Anywhere else the tensor itself, or a plain copy, is at
hand at once.

This was written without a GPU: what the tests run on the CPU is the order of things, with copies that arrive as late as
they may.
"""

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch


class Transfer(Protocol):
    """The copies of one forward pass."""

    def copy(self, tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
        """`tensor` on the host, in `dtype` or as it is; its values are there when `wait` has returned."""
        ...

    def close(self) -> None:
        """The pass is over: no more copies."""
        ...

    def wait(self) -> None:
        """Return when every copy is there. May be called again, and by any thread."""
        ...


class AtOnce:
    """Copies that are there when they are made. Of a tensor on the CPU it is the tensor itself: nothing in the families' code
    writes into a block's output later (a test compares)."""

    def copy(self, tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
        return (tensor if dtype is None else tensor.to(dtype)).cpu()

    def close(self) -> None:
        return None

    def wait(self) -> None:
        return None


@dataclass(frozen=True, slots=True)
class _Lane:
    """One GPU: the stream that computes, and the one that copies."""

    compute: Any
    side: Any


class BesideCompute:
    """Copies on a stream of their own, one for each GPU; made before the pass, in the thread that launches it.

    `record_stream` keeps a value's memory from being used again before its copy has read it.
    """

    def __init__(self, sides: dict[int, Any]) -> None:
        self._lanes = {
            gpu: _Lane(compute=torch.cuda.current_stream(gpu), side=_side_stream(sides, gpu))
            for gpu in range(torch.cuda.device_count())
        }
        self._used: set[int] = set()
        self._done: list[Any] | None = None

    def copy(self, tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
        if tensor.device.type != "cuda":
            return AtOnce().copy(tensor, dtype)
        gpu = tensor.device.index
        lane = self._lanes[gpu]
        self._used.add(gpu)
        lane.side.wait_stream(lane.compute)  # what computes the value was enqueued there
        with torch.cuda.stream(lane.side):
            value = tensor if dtype is None else tensor.to(dtype)
            host = torch.empty(value.shape, dtype=value.dtype, device="cpu", pin_memory=True)
            host.copy_(value, non_blocking=True)
        tensor.record_stream(lane.side)
        return host

    def close(self) -> None:
        """The pass is over: mark the end of its copies on each stream."""
        self._done = [self._lanes[gpu].side.record_event() for gpu in sorted(self._used)]

    def wait(self) -> None:
        for event in self._done or ():
            event.synchronize()


def _side_stream(sides: dict[int, Any], gpu: int) -> Any:
    if gpu not in sides:
        sides[gpu] = torch.cuda.Stream(gpu)  # type: ignore[no-untyped-call]
    return sides[gpu]


@dataclass(slots=True)
class Transfers:
    """Makes the transfer of each pass; side streams are kept from pass to pass."""

    sides: dict[int, Any] = field(default_factory=dict)

    def begin(self, device: torch.device) -> Transfer:
        """Of a pass of a model whose inputs are on `device`."""
        return BesideCompute(self.sides) if device.type == "cuda" else AtOnce()
