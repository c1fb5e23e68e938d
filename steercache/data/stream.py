"""A data set as something to iterate: lazy, again and again the same, and never past a bad row in silence."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from steercache.core.errors import ManifestError, Problem
from steercache.core.examples import Example
from steercache.data.rows import Rows
from steercache.data.sources import SOURCES, OpenSource
from steercache.manifests.documents import DatasetManifest

SHOWN = 200  # problems named in full; the rest are counted


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """The examples of one data set, in a fixed order; iterating reads the files again and keeps none of it.

    Examples come until the first bad row. From there on nothing more is yielded, the rest is checked, and the iteration ends
    with one error that names every bad row: whoever gets to the end has seen them all.
    """

    name: str
    source: OpenSource
    limit: int | None
    seed: int | None

    def __iter__(self) -> Iterator[Example]:
        found: list[Problem] = []
        n_problems = 0
        for row in self._chosen():
            read = [row] if isinstance(row, Problem) else self.source.read(row)
            problems = [item for item in read if isinstance(item, Problem)]
            n_problems += len(problems)
            found += problems[: SHOWN - len(found)]
            if not n_problems:
                yield from (item for item in read if isinstance(item, Example))
        if n_problems:
            raise self._error(found, n_problems)

    def check(self) -> int:
        """Read every row and return the number of examples.

        Raises:
            ManifestError: naming every bad row.
        """
        return sum(1 for _ in self)

    def _chosen(self) -> Rows:
        """The rows that `limit` and `seed` keep; a pair is one row."""
        if self.limit is None:
            yield from self.source.rows()
            return
        wanted = range(self.limit) if self.seed is None else self._random_choice(self.limit, self.seed)
        last = self.limit - 1 if isinstance(wanted, range) else max(wanted, default=-1)
        for i, row in enumerate(self.source.rows() if last >= 0 else ()):
            if i in wanted:
                yield row
            if i >= last:
                return

    def _random_choice(self, limit: int, seed: int) -> frozenset[int]:
        n_rows = sum(1 for _ in self.source.rows())
        return frozenset(random.Random(seed).sample(range(n_rows), min(limit, n_rows)))

    def _error(self, shown: list[Problem], n_problems: int) -> ManifestError:
        rest = n_problems - len(shown)
        message = f"{n_problems} problem{'s' * (n_problems > 1)} in this data set"
        message += f"; the first {len(shown)}:" if rest else ":"
        return ManifestError(
            message, problems=shown, place=self.name, hint="mend the rows, or leave them out of the file"
        )


def open_dataset(manifest: DatasetManifest, *, base_dir: Path) -> DataSet:
    """The examples that a manifest describes; `base_dir` is the folder that its paths are relative to.

    Raises:
        NotFoundError: the data file or folder is not there. What is wrong inside it is raised by iterating.
    """
    source = SOURCES[manifest.source.type](manifest, manifest.source, base_dir)
    return DataSet(name=manifest.name, source=source, limit=manifest.limit, seed=manifest.seed)
