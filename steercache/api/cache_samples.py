"""Looking at runs: samples, their tokens, and where they lie along a vector or a feature."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from steercache.api.cache_core import CacheCore
from steercache.api.runs import Run
from steercache.core.vectors import SteeringVector

if TYPE_CHECKING:
    from steercache.api.projections import Projections, RowNorms
    from steercache.api.sample_pictures import SamplePicture
    from steercache.api.samples import Sample, SamplePage
    from steercache.api.top_tokens import TopTokens


class SampleMethods(CacheCore):
    """Looking at runs: samples, their tokens, and where they lie along a vector or a feature."""

    def samples(
        self,
        run: str | Run,
        *,
        concept: str | None = None,
        dataset: str | None = None,
        split: str | None = None,
        task: str | None = None,
        search: str | None = None,
        offset: int = 0,
        limit: int = 50,
    ) -> "SamplePage":
        """Samples of a run that have these labels and whose text, question or answer contains `search` in any case.

        Raises:
            NotFoundError: no such run.
        """
        from steercache.api.samples import list_samples

        matching = {"concept": concept, "dataset": dataset, "split": split, "task": task, "search": search or None}
        return list_samples(self._session, self._run_id(run), matching, offset=offset, limit=limit)

    def labels(self, run: str | Run) -> dict[str, dict[str | None, int]]:
        """Samples of a run per value of the labels concept, dataset, split and task. Raises NotFoundError."""
        from steercache.api.samples import count_labels

        return count_labels(self._session, self._run_id(run))

    def sample(self, run: str | Run, sample: int) -> "Sample":
        """One sample of a run by number, with its labels and tokens. Raises NotFoundError."""
        from steercache.api.samples import read_sample

        return read_sample(self._session, self._run_id(run), sample)

    def picture(self, sample: "Sample") -> "SamplePicture":
        """The picture of a sample, read again from the data set that the run's manifest names.

        Data sets of one's own are looked for from the current folder.

        Raises:
            NotFoundError: the sample has none, or its data set is not here. UsageError: it cannot be drawn, or there are
            several. DamagedError: the data set has another picture now.
        """
        from steercache.api.sample_pictures import read_picture

        return read_picture(self._session, sample)

    def project(
        self,
        run: str | Run,
        rows: "Sample | npt.NDArray[Any] | Sequence[int]",
        *,
        layer: int,
        vector: str | SteeringVector | None = None,
    ) -> "Projections":
        """Rows (n,) of a run at one layer, or the tokens of a sample, projected on a vector (None: their norms alone).

        A row of -1 stands for a token without a row, whose values are NaN.

        Raises:
            NotFoundError: no such run, vector or layer. UsageError: the vector has another width, or no such layer.
        """
        from steercache.api.projections import project_rows
        from steercache.api.samples import Sample

        numbers = rows.rows if isinstance(rows, Sample) else np.asarray(rows, dtype=np.int64)
        found = self._session.vector(vector) if isinstance(vector, str) else vector
        return project_rows(self._session, self._run_id(run), numbers, vector=found, layer=layer)

    def top_tokens(
        self,
        vector: str | SteeringVector,
        *,
        layer: int,
        run: str | Run,
        n: int = 20,
        kinds: Sequence[str] = ("text", "image"),
        time_s: float = 3.0,
    ) -> "TopTokens":
        """The tokens of a run that lie farthest along a vector and farthest against it, in their contexts.

        Position 0 and tokens of other `kinds` are left out. Blocks of rows are read in an order that spreads over the run, for
        at most about `time_s` seconds; `n_rows` of the result says how many were looked at.

        Raises:
            NotFoundError: no such vector, run or layer. UsageError: the vector has another width, or no such layer.
        """
        from steercache.api.top_tokens import top_tokens_of_vector

        found = self._session.vector(vector) if isinstance(vector, str) else vector
        return top_tokens_of_vector(
            self._session, found, self._run_id(run), layer=layer, n=n, kinds=kinds, time_s=time_s
        )

    def row_norms(self, run: str | Run, *, site: str | None = None) -> "RowNorms":
        """Norms of rows by layer and kind of token, from up to 2,048 rows spread over the run, position 0 left out.

        Raises:
            NotFoundError: no such run or site.
        """
        from steercache.api.projections import row_norms

        return row_norms(self._session, self._run_id(run), site=site)

    def _run_id(self, run: str | Run) -> str:
        return run.run_id if isinstance(run, Run) else self._session.cache.resolve_run(run)
