"""Rows of a run as a batch: block outputs from disk, slot by slot, and what has to match before they replace a forward pass."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from steercache.core.selection import RowIndex, RowSource


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What must match before a run's rows can replace a forward pass: `dtype` is what the model computed in, `stored_dtype`
    what its rows are kept in, `numerics` those of `run.json`."""

    name: str
    fingerprint: str
    tokenizer_digest: str
    dtype: str
    stored_dtype: str
    replayable: bool
    lossy: bool
    numerics: Mapping[str, Any]


class StoredBatch(Protocol):
    """Block outputs of samples, slot by slot: of one batch as it was recorded (`as_recorded`), or of samples from several."""

    @property
    def facts(self) -> RunFacts: ...

    @property
    def padded_len(self) -> int: ...

    @property
    def as_recorded(self) -> bool: ...

    @property
    def token_ids(self) -> Sequence[npt.NDArray[np.int32]]:
        """What the run read, per sample (t,)."""
        ...

    @property
    def sample_ids(self) -> Sequence[str]:
        """Hashes of all that the run read: token ids, token types, pictures."""
        ...

    def block_outputs(self, layer: int) -> Sequence[npt.NDArray[Any]]:
        """Per sample (t, d), in the stored dtype. Raises NotFoundError for a layer that was not kept."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class GatheredBatch:
    """A batch over the rows of a run: `rows` and `token_ids` have one array (t,) per sample, in slot order."""

    facts: RunFacts
    padded_len: int
    as_recorded: bool
    sample_ids: Sequence[str] = field(repr=False)
    token_ids: Sequence[npt.NDArray[np.int32]] = field(repr=False)
    rows: Sequence[RowIndex] = field(repr=False)
    source: RowSource = field(repr=False)

    def block_outputs(self, layer: int) -> Sequence[npt.NDArray[Any]]:
        """Rows of one layer, sample by sample."""
        lengths = [len(rows) for rows in self.rows]
        gathered = self.source.gather("resid_post", layer, np.concatenate(self.rows))
        return np.split(gathered, np.cumsum(lengths)[:-1])
