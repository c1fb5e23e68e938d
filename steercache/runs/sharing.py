"""Rows that questions about one picture have in common: those before the first token that differs, kept once per shard.

In a causal model a row depends on what stands before it alone, so two samples with the same pictures and the same first tokens
have the same first rows (but for rounding: their batches differ). The first sample of a shard with certain pictures is the
one whose rows are kept. Nothing here looks beyond a shard, so that a shard can be traced by itself.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from steercache.cache.documents import PlannedShard
from steercache.core.errors import UsageError
from steercache.core.examples import EncodedSample
from steercache.models.spec import TokenizerBundle
from steercache.runs.packing import cut_shards

Positions = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedRows:
    """What one sample takes from an earlier one of its shard: tokens at `positions` have the rows of `owner`'s tokens there.

    `own` are the positions whose rows it keeps itself. `owner` counts within the shard.
    """

    owner: int
    positions: Positions
    own: Positions


@dataclass(frozen=True, slots=True, kw_only=True)
class _Owner:
    number: int
    sample: EncodedSample = field(repr=False)
    kept: Positions = field(repr=False)


class PrefixOwners:
    """The samples of one shard, one after the other: who keeps the rows of a picture, and who takes them over."""

    def __init__(self) -> None:
        self._owners: dict[tuple[str, ...], _Owner] = {}
        self._n = 0

    def take(self, sample: EncodedSample, kept: Positions) -> SharedRows:
        """The next sample, of which the row policy keeps `kept` (ascending)."""
        number, self._n = self._n, self._n + 1
        owner = self._owners.get(sample.image_digests) if sample.image_digests else None
        if owner is None:
            if sample.image_digests:
                self._owners[sample.image_digests] = _Owner(number=number, sample=sample, kept=kept)
            return SharedRows(owner=number, positions=kept[:0], own=kept)
        same = kept[kept < common_prefix(owner.sample, sample)]
        shared = same[np.isin(same, owner.kept, assume_unique=True)]
        own = np.setdiff1d(kept, shared, assume_unique=True)
        return SharedRows(owner=owner.number, positions=shared, own=own)


def common_prefix(a: EncodedSample, b: EncodedSample) -> int:
    """How many first tokens two samples with the same pictures have in common, type ids included."""
    n = min(a.n_tokens, b.n_tokens)
    same = a.input_ids[:n] == b.input_ids[:n]
    for name in a.extra.keys() | b.extra.keys():
        if name not in a.extra or name not in b.extra:
            return 0
        same &= a.extra[name][:n] == b.extra[name][:n]
    return n if same.all() else int(same.argmin())


class SharedPacking:
    """Cuts samples into shards of `rows_per_shard` slots as they come, counting shared rows once per shard."""

    def __init__(self, rows_per_shard: int) -> None:
        self.rows_per_shard = rows_per_shard
        self._owners = PrefixOwners()
        self._firsts: list[int] = []
        self._rows = array("q")
        self._filled = 0

    def add(self, sample: EncodedSample, kept: Positions) -> None:
        """The next sample in data-set order."""
        n_rows = len(self._owners.take(sample, kept).own) if self._rows else len(kept)
        if not self._rows or self._filled + n_rows > self.rows_per_shard:
            self._firsts.append(len(self._rows))
            self._owners, self._filled = PrefixOwners(), 0
            n_rows = len(self._owners.take(sample, kept).own)
        self._rows.append(n_rows)
        self._filled += n_rows

    def shards(self, tokens: npt.NDArray[np.int64], sample_ids: Sequence[str]) -> tuple[PlannedShard, ...]:
        """The shards of all samples added; `tokens` and `sample_ids` have shape (samples,)."""
        return cut_shards(self._firsts, np.frombuffer(self._rows, dtype=np.int64), tokens, sample_ids)


def check_sharing(bundle: TokenizerBundle, *, place: str) -> None:
    """Refuse sharing where rows depend on what follows them, or where there are no pictures.

    Raises:
        UsageError: with the reason.
    """
    family = bundle.family
    if family.modality != "image":
        raise UsageError(
            f"share_prefix keeps the rows of a picture once; {bundle.spec.name} reads no pictures",
            place=place,
            hint="leave share_prefix out",
        )
    if family.token_types is not None and family.token_types[1] == "suffix":
        raise UsageError(
            f"{bundle.spec.name} ({family.name}) reads its prompt in both directions: the rows of a picture depend on the "
            "question, so that they cannot be shared",
            place=place,
            hint="leave share_prefix out, and keep fewer layers or `rows: {policy: image}`",
        )
