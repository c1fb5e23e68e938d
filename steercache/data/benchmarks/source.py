"""Where a set's rows come from: a local folder of the hub's layout, or the hub."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steercache.core.errors import ManifestError, NotFoundError, Problem
from steercache.data.benchmarks.hub import hub_rows
from steercache.data.benchmarks.questions import FailedRow
from steercache.data.benchmarks.tables import StoredPicture, TableRow, parquet_rows
from steercache.data.inside import leads_out


@dataclass(frozen=True, slots=True, kw_only=True)
class HubPart:
    """One part of a set on the hub: what `load_dataset` is asked for, and the files that hold it in a download."""

    hub_id: str
    split: str
    files: tuple[str, ...]  # glob patterns under the folder; the first that matches anything is the one
    config: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkFiles:
    """The user's folder, or None for the hub; `limit` reads only the first rows of the whole set."""

    folder: Path | None
    limit: int | None = None


def table_rows(
    source: BenchmarkFiles, parts: Sequence[HubPart], wanted: Mapping[str, str], *, optional: Sequence[str] = ()
) -> Iterator[TableRow]:
    """Rows of all parts in order, from the folder if there is one, from the hub otherwise.

    Raises:
        NotFoundError: no file of the layout is in the folder, or the hub does not answer.
        ManifestError: columns are missing or of another type.
    """
    left = source.limit
    for part in parts:
        if source.folder is None:
            rows = hub_rows(
                part.hub_id, config=part.config, split=part.split, wanted=wanted, optional=optional, limit=left
            )
        else:
            files = find_files(source.folder, part.files)
            rows = parquet_rows(source.folder, files, wanted, optional=optional, limit=left)
        for row in rows:
            yield row
            left = None if left is None else left - 1


def find_files(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """Files of the first pattern that matches any, by name.

    Raises:
        NotFoundError: the folder is missing, or has no such file.
        ManifestError: one of the files is a link that leads out of the folder.
    """
    if not folder.is_dir():
        raise NotFoundError("no such folder", place=str(folder), hint="give the folder the set was downloaded to")
    for pattern in patterns:
        if found := sorted(path for path in folder.absolute().glob(pattern) if path.is_file()):
            if outside := [path for path in found if leads_out(folder, path)]:
                raise _broken(outside[0], "outside_folder", "a link leads out of the data set's folder")
            return found
    raise NotFoundError(
        f"no file of this set's layout: looked for {', '.join(patterns)}",
        place=str(folder),
        hint="give the folder that the hub's download made, unchanged",
    )


def json_rows(path: Path, keys: Sequence[str], *, under: str | None = None) -> list[Any]:
    """The list of rows of a JSON file (below the key `under`, if given).

    Raises:
        ManifestError: not JSON, no such list, or a key that no row has; all missing keys are listed.
    """
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as err:
        raise _broken(path, "not_json", f"not a JSON file: {err}") from err
    except OSError as err:
        raise NotFoundError(f"cannot be read: {err.strerror or err}", place=path.name) from err
    if under is not None:
        document = document.get(under) if isinstance(document, dict) else None
    if not isinstance(document, list) or not document:
        where = f"a list of rows under {under!r}" if under else "a list of rows"
        raise _broken(path, "no_rows", f"{where} was expected")
    missing = [key for key in keys if not any(isinstance(row, dict) and key in row for row in document)]
    if missing:
        problems = [Problem(loc=key, kind="missing_column", message="no row has this key") for key in missing]
        raise ManifestError(f"{len(missing)} key(s) are missing from every row", problems=problems, place=path.name)
    return document


def _broken(path: Path, kind: str, message: str) -> ManifestError:
    return ManifestError(message, problems=[Problem(loc="", kind=kind, message=message)], place=path.name)


def picture_failure(pictures: Sequence[StoredPicture], place: str, task: str | None) -> FailedRow | None:
    """The failed row if any of its pictures is missing or broken."""
    for picture in pictures:
        if picture.problem is not None:
            kind, message = picture.problem
            return FailedRow(place=place, kind=kind, message=message, task=task)
    return None
