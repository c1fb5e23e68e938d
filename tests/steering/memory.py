"""Peak memory of tensors: every storage that torch hands out while a function runs, until it is freed."""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Watch(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        before = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        for x in tree_leaves(out):
            if isinstance(x, torch.Tensor):
                self._take(x.untyped_storage(), before)
        return out

    def _take(self, storage: torch.UntypedStorage, before: set[int]) -> None:
        key, n_bytes = storage._cdata, storage.nbytes()
        if key in self._known or key in before:
            return
        self._known.add(key)
        self.live += n_bytes
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._free, key, n_bytes)

    def _free(self, key: int, n_bytes: int) -> None:
        self._known.discard(key)
        self.live -= n_bytes


def peak_bytes(run: Callable[[], Any]) -> tuple[Any, int]:
    """What `run` returns, and the most bytes that tensors made in it held at once."""
    with _Watch() as watch:
        result = run()
    return result, watch.peak
