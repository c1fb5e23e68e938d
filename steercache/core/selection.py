"""Rows that a query picked, and the one way to turn them into arrays."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from steercache.core.drawing.charts import Axes, Series, line_chart
from steercache.core.ids import SHORT_ID
from steercache.core.notebook import notebook_html
from steercache.core.vectors import FittedOn

RowIndex = npt.NDArray[np.int64]
_POSITIONS = 64  # of a text that a notebook's picture shows


class RowSource(Protocol):
    """Something that has the rows of one run: the cache's reader, or arrays in a test."""

    @property
    def run_id(self) -> str: ...

    @property
    def generation(self) -> str: ...

    @property
    def lossy(self) -> bool:
        """Whether values differ from what the model computed (an int8 generation)."""
        ...

    def layers(self, site: str) -> tuple[int, ...]:
        """Blocks kept for `site`, ascending."""
        ...

    def gather(self, site: str, layer: int, rows: RowIndex) -> npt.NDArray[Any]:
        """Rows of one layer in the given order, shape (n, d), in the dtype they are stored in."""
        ...


@runtime_checkable
class ModelSource(Protocol):
    """What a RowSource may offer beside `gather`: the model whose rows it has."""

    @property
    def fitted_on(self) -> FittedOn:
        """That model, as vectors fitted on these rows name it."""
        ...


@runtime_checkable
class HeadSource(Protocol):
    """What a RowSource may offer beside `gather`: how many attention heads a block of the model has."""

    @property
    def n_heads(self) -> int | None:
        """That number; None where it is not known."""
        ...


@runtime_checkable
class ViewSource(Protocol):
    """What a RowSource may offer beside `gather`: rows as they lie in memory or in a memory map, without a copy."""

    def layer_views(self, site: str, layer: int) -> Sequence[tuple[int, npt.NDArray[Any]]]:
        """(first row, rows (n, d)) of every stretch that needs no decoding, ascending; empty where all must be decoded."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryRecord:
    """How rows were picked: enough to pick them again. `where` is a target, as in steering, that their tokens meet."""

    name: str | None
    text: str
    bindings: Mapping[str, Any]
    where: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Selection:
    """Rows of one run, ascending by `rows`, without duplicates; every array has shape (n,).

    `label` is 1 for the concept's side and 0 for the other; `pair` numbers contrastive pairs; `weight` counts a row more or
    less. `sample_idx`, `position` and `token_id` say where each row came from, so that folds can keep sentences and words
    together; `words`, called when it is needed, gives tokens one number that differ only in a space before them or in capitals.
    """

    source: RowSource = field(repr=False, compare=False)
    query: QueryRecord
    rows: RowIndex
    sample_idx: RowIndex
    position: npt.NDArray[np.int32]
    token_id: npt.NDArray[np.int32]
    label: npt.NDArray[np.int8] | None = None
    pair: RowIndex | None = None
    weight: npt.NDArray[np.float32] | None = None
    words: Callable[[], RowIndex] | None = field(default=None, repr=False)
    concept: str | None = None
    site: str = "resid_post"

    def __post_init__(self) -> None:
        if np.any(np.diff(self.rows) <= 0):
            raise ValueError("rows of a selection must ascend without duplicates")

    def __repr__(self) -> str:
        of = f" of {self.concept!r}" if self.concept else ""
        name = self.query.name or "inline SQL"
        return f"<{len(self):,} rows{of} by {name}, run {self.run_id[:SHORT_ID]}, {self.site}>"

    def _repr_html_(self) -> str:
        """How many rows each side has, and where in the texts they stand, for a notebook."""
        facts: list[tuple[str, object]] = [
            ("query", self.query.name or "inline SQL"),
            ("concept", self.concept),
            ("site", self.site),
            ("samples", f"{len(np.unique(self.sample_idx)):,}"),
            ("run", self.run_id[:SHORT_ID]),
        ]
        facts += [("tokens where", self.query.where)] if self.query.where else []
        sides = {"rows": self.position}
        if self.label is not None:
            sides = {"with the concept": self.position[self.label == 1], "other side": self.position[self.label == 0]}
            facts += [(name, f"{len(some):,} rows") for name, some in sides.items()]
        end = min(int(self.position.max(initial=0)) + 1, _POSITIONS)
        counts = [
            Series(
                name=name,
                x=range(end),
                y=np.bincount(np.minimum(np.maximum(some, 0), end), minlength=end)[:end].tolist(),
            )
            for name, some in sides.items()
        ]
        axes = Axes(title="Rows by position in the text", x="position", y="rows", y_zero=True)
        pictures = [line_chart(counts, axes)] if len(self) else []
        return notebook_html(f"Selection of {len(self):,} rows", facts, pictures=pictures)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def run_id(self) -> str:
        """The run the rows belong to."""
        return self.source.run_id

    @property
    def fitted_on(self) -> FittedOn | None:
        """The model whose rows these are; None for a source that does not say."""
        return self.source.fitted_on if isinstance(self.source, ModelSource) else None

    @property
    def n_heads(self) -> int | None:
        """Attention heads of a block of the model; None for a source that does not say."""
        return self.source.n_heads if isinstance(self.source, HeadSource) else None

    @property
    def layers(self) -> tuple[int, ...]:
        """Blocks that the run kept for this selection's site."""
        return self.source.layers(self.site)

    def gather(
        self,
        layer: int,
        *,
        part: slice | npt.NDArray[Any] | None = None,
        dtype: Literal["float32", "stored"] = "float32",
    ) -> npt.NDArray[Any]:
        """Hidden states of the rows at block `layer`, shape (n, d); `part` takes some of the rows.

        In float32, which holds every bfloat16 and float16 value exactly, and in which numpy and scikit-learn compute: numpy
        sums bfloat16 in bfloat16, so that a mean over 2,000 rows is off by more than half. `dtype="stored"` gives the bits as
        they lie in the store (an `ml_dtypes.bfloat16` array for a bfloat16 run).

        Raises:
            UsageError: the run did not keep this layer.
        """
        rows = self.rows if part is None else self.rows[part]
        stored = self.source.gather(self.site, layer, rows)
        return stored if dtype == "stored" else stored.astype(np.float32, copy=False)

    def torch(self, layer: int, *, part: slice | npt.NDArray[Any] | None = None) -> Any:
        """The rows of block `layer` as a torch tensor (n, d) on the CPU, in the dtype they are stored in."""
        from importlib import import_module

        torch = import_module("torch")
        stored = self.gather(layer, part=part, dtype="stored")
        if stored.dtype.name == "bfloat16":  # numpy has no such type: torch reads the same bits
            return torch.from_numpy(stored.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(stored)
