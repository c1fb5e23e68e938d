"""Writing rows of the cache for other tools: what `Cache.export` and `Cache.copy_part` do."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from steercache.api.progress import ProgressLike, reporting
from steercache.api.runs import Run, run_of
from steercache.cache.handle import open_cache
from steercache.core.errors import UsageError
from steercache.core.selection import Selection
from steercache.exchange.activations.export import Exported, FileFormat, export, format_of
from steercache.exchange.activations.part import copy_part as copy_part_into
from steercache.exchange.activations.tables import requested
from steercache.queries.session import Session


def export_rows(
    session: Session,
    selection: Selection,
    path: Path,
    *,
    layers: Sequence[int] | None,
    file_format: FileFormat | None,
) -> Exported:
    """Write a selection's rows into a file; see `Cache.export`."""
    return export(requested(session, selection, layers), path, format_of(path, file_format))


def copy_part(
    session: Session,
    run_id: str,
    root: Path,
    *,
    layers: Sequence[int] | None,
    selection: Selection | None,
    progress: ProgressLike,
) -> Run:
    """Copy part of a run into another cache; see `Cache.copy_part`."""
    if selection is not None and selection.run_id != run_id:
        raise UsageError("the selection is of another run", hint="select rows of the run that is copied")
    cache = session.cache
    source = cache.source(run_id)
    target = open_cache(root, create=True)
    rows = None if selection is None else np.asarray(selection.rows)
    with reporting(progress) as show:
        done = 0

        def count(n_rows: int) -> None:
            nonlocal done
            done += n_rows
            show(f"copying {source.document.name}", done, source.document.n_rows if rows is None else len(rows))

        document = copy_part_into(source, cache, target, layers=layers, rows=rows, on_rows=count)
    return run_of(document)
