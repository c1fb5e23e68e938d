"""What the pass over the data keeps of every sample, in constant memory but for these few bytes."""

from array import array
from collections.abc import Sequence
from typing import Any


class InputCounts:
    """What the pass has seen of one list of inputs: 40 bytes a sample."""

    def __init__(self) -> None:
        self.ids = bytearray()
        self.rows = array("q")
        self.tokens = array("q")

    def hex_ids(self) -> Sequence[str]:
        return _HexIds(self.ids)


class _HexIds(Sequence[str]):
    def __init__(self, raw: bytearray) -> None:
        self._raw = raw

    def __len__(self) -> int:
        return len(self._raw) // 32

    def __getitem__(self, item: Any) -> Any:
        if isinstance(item, slice):
            return [self[i] for i in range(*item.indices(len(self)))]
        return self._raw[32 * item : 32 * item + 32].hex()
