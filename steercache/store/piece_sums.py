"""Checksums of the pieces in which a file's rows arrive, in any order, joined into those of its chunks."""

import numpy as np
import numpy.typing as npt

from steercache.store.checksum import Checksums, combine_each
from steercache.store.geometry import ShardGeometry


class PieceSums:
    """What has arrived of each layer. A piece lies within one chunk, and pieces do not overlap, but one may come again."""

    def __init__(self, geometry: ShardGeometry) -> None:
        self._geometry = geometry
        n_slots = geometry.filled_chunks * geometry.chunk_rows
        self._crc_ls = np.zeros((geometry.n_layers, n_slots), dtype=np.uint32)  # of the piece that begins at a slot
        self._rows_ls = np.zeros((geometry.n_layers, n_slots), dtype=np.int32)  # how many it has

    def put(self, layer_pos: int, slot: int, n_rows: int, crc: int) -> None:
        """A piece of `n_rows` rows at `slot` has been written."""
        self._crc_ls[layer_pos, slot] = crc
        self._rows_ls[layer_pos, slot] = n_rows

    def check(self, n_rows: int) -> None:
        """Raise ValueError unless slots 0 to `n_rows` - 1 of every layer arrived once."""
        n_times_ls = self._arrived()[:, :n_rows]
        for wrong_ls, problem in ((n_times_ls == 0, "never came"), (n_times_ls > 1, "are in two pieces")):
            if wrong_ls.any():
                layer_pos, slot = np.argwhere(wrong_ls)[0]
                raise ValueError(f"{int(wrong_ls.sum())} rows {problem}, first layer {layer_pos}, slot {slot}")

    def of_chunks(self) -> list[list[int]]:
        """The checksum of each chunk of each layer; every slot has arrived once."""
        if (self._rows_ls == self._rows_ls[:1]).all():  # all layers came in the same pieces
            chunks_lc = self._joined(self._crc_ls, self._rows_ls[0]).tolist()
        else:
            chunks_lc = [
                self._joined(crc_s[None], rows_s)[0].tolist()
                for crc_s, rows_s in zip(self._crc_ls, self._rows_ls, strict=True)
            ]
        found: list[list[int]] = chunks_lc
        return found

    def _arrived(self) -> npt.NDArray[np.int32]:
        """How many pieces hold each slot of each layer."""
        layers, starts = np.nonzero(self._rows_ls)
        change_ls = np.zeros((self._rows_ls.shape[0], self._rows_ls.shape[1] + 1), dtype=np.int32)
        change_ls[layers, starts] = 1
        np.subtract.at(change_ls, (layers, starts + self._rows_ls[layers, starts]), 1)
        n_times_ls: npt.NDArray[np.int32] = change_ls[:, :-1].cumsum(axis=1, dtype=np.int32)
        return n_times_ls

    def _joined(self, crc_ls: Checksums, rows_s: npt.NDArray[np.int32]) -> Checksums:
        """Checksums (l, chunks) of layers that came in the same pieces."""
        geometry = self._geometry
        chunks_lc = np.zeros((len(crc_ls), geometry.filled_chunks), dtype=np.uint32)
        for slot in np.flatnonzero(rows_s).tolist():
            chunk = slot // geometry.chunk_rows
            n_bytes = int(rows_s[slot]) * geometry.row_bytes
            chunks_lc[:, chunk] = combine_each(chunks_lc[:, chunk], crc_ls[:, slot], n_bytes)
        return chunks_lc
