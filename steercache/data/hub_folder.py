"""A local folder of the hub's layout or of `save_to_disk`, checked before the `datasets` library reads it.

Such folders are copied and received. What their cards and state files name must lie in the folder: no absolute path, no `..`,
no address, no link that leads out.
"""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from steercache.core.errors import ManifestError, Problem
from steercache.data.inside import leads_out, resolve_inside
from steercache.manifests.tree import CARD_BOUNDS, read_tree

STATE, SPLITS = "state.json", "dataset_dict.json"  # what `save_to_disk` writes
_CARDS = ("README.md", ".huggingface.yaml")
_HEAD = re.compile(r"\A\s*---[\r\n]+(.*?)[\r\n]+---(?:\r\n|\n|\Z)", re.DOTALL)  # as the hub's library finds it
_OTHERWISE = frozenset({"alias", "duplicate_key", "merge_key", "tag"})  # what its YAML reader takes for other values
_MAX_STATE_BYTES = 16 * 2**20
_PATHS = ("data_files", "data_dir")
# Readers of the library for tables, lines and pictures; the others open archives of their own kind or need other packages.
_READERS = frozenset({"arrow", "csv", "imagefolder", "json", "parquet", "text"})


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` wrote the folder."""
    return any((folder / name).is_file() for name in (STATE, SPLITS))


def check_saved(folder: Path, file: str) -> None:
    """Refuse a folder of `save_to_disk` whose state names anything outside it.

    Raises:
        ManifestError: names the entry.
    """
    names = list(_strings(_state(folder / SPLITS, file).get("splits")))
    for name in names:
        if reason := _why_outside(name):
            raise _refused(file, SPLITS, f"the split {name!r}: {reason}")
    for part in [folder, *(folder / name for name in names)]:
        for entry in _state(part / STATE, file).get("_data_files") or ():
            for name in _strings(entry):
                found = resolve_inside(part, name)
                if isinstance(found, str):
                    raise _refused(file, f"{part.name}/{STATE}", f"{name!r}: {found}")


def check_cards(folder: Path, file: str) -> None:
    """Refuse a folder whose card names data outside it, or is no document of a bounded size.

    Raises:
        ManifestError: names the entry.
    """
    for name in _CARDS:
        text = _card(folder / name, file)
        if text is None:
            continue
        tree = read_tree(text, file=f"{file}: {name}", bounds=CARD_BOUNDS)
        if unclear := [problem for problem in tree.problems if problem.kind in _OTHERWISE]:
            raise ManifestError("this data set's card is not read", problems=unclear, place=file)
        for entry in _named_paths(tree.value):
            if reason := _why_outside(entry):
                raise _refused(file, name, f"{entry!r}: {reason}")


def check_reader(builder: Any, folder: Path, file: str) -> None:
    """Refuse files that a builder of the library found through a link out of the folder, and kinds of files we do not read.

    Raises:
        ManifestError: names the file.
    """
    kind = type(builder).__module__.rpartition(".")[2]
    if kind not in _READERS:
        raise _refused(file, "", f"its files are of the kind {kind!r}; read are {', '.join(sorted(_READERS))}")
    for found in map(Path, _strings(list((builder.config.data_files or {}).values()))):
        if leads_out(folder, found):
            raise _refused(file, "", f"{found.name!r}: a link leads out of the data set's folder")


def check_folder(library: Any, folder: Path, *, config: str | None, file: str) -> Any:
    """The builder of the library `datasets` for a folder of the hub's layout, checked before any data is read.

    Raises:
        ManifestError: names what leads out of the folder.
    """
    check_cards(folder, file)
    builder = library.load_dataset_builder(str(folder), name=config)
    check_reader(builder, folder, file)
    return builder


def check_hub_id(library: Any, hub_id: str, *, config: str | None) -> None:
    """Check a folder of the working directory that has the name of an id: the library reads it in the place of the hub's set.

    Raises:
        ManifestError: names what leads out of the folder.
    """
    folder = Path(hub_id)
    if folder.is_dir():
        check_folder(library, folder, config=config, file=hub_id)


def _why_outside(name: str) -> str | None:
    """Why a path or pattern of a card is not taken; None when it stays inside."""
    if "://" in name or "::" in name:
        return "an address; only files of the folder are read"
    if PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor or name.startswith("~"):
        return "an absolute path; paths stand relative to the data set's folder"
    if ".." in PurePosixPath(name).parts or ".." in PureWindowsPath(name).parts:
        return "`..` leads out of the data set's folder"
    return None


def _card(path: Path, file: str) -> str | None:
    """The YAML of a card: the head of a README, the whole of another file; None where there is none."""
    if not path.is_file():
        return None
    with path.open("rb") as stream:
        data = stream.read(CARD_BOUNDS.n_bytes + 1)
    text = data.decode("utf-8", errors="replace")
    if path.suffix == ".md":
        head = _HEAD.match(text)
        if head is None and len(data) > CARD_BOUNDS.n_bytes:
            raise _refused(file, path.name, f"more than {CARD_BOUNDS.n_bytes >> 20} MiB")
        text = head[1] if head is not None else ""
    return text if text.strip() else None


def _named_paths(value: Any) -> Iterator[str]:
    """Every text below a key that names files, anywhere in a card."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _strings(inner) if key in _PATHS else _named_paths(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _named_paths(inner)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _strings(list(value.values()))
    elif isinstance(value, Iterable):
        for inner in value:
            yield from _strings(inner)


def _state(path: Path, file: str) -> dict[str, Any]:
    """A JSON file of `save_to_disk`; empty where there is none. What is wrong with its form the library says."""
    if not path.is_file():
        return {}
    with path.open("rb") as stream:
        data = stream.read(_MAX_STATE_BYTES + 1)
    if len(data) > _MAX_STATE_BYTES:
        raise _refused(file, path.name, f"more than {_MAX_STATE_BYTES >> 20} MiB")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _refused(file, path.name, f"not JSON: {error}") from None
    return value if isinstance(value, dict) else {}


def _refused(file: str, name: str, message: str) -> ManifestError:
    place = f"{file}: {name}" if name else file
    problem = Problem(loc="", kind="outside", message=message, file=place)
    return ManifestError("this data set is not read", problems=[problem], place=file)
