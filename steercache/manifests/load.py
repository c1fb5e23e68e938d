"""A manifest from text, from a file, or by name: checked as a whole, every problem at once."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from steercache.core.errors import ManifestError, NotFoundError, Problem
from steercache.core.shipped import shipped_folder
from steercache.manifests.documents import KINDS, Manifest
from steercache.manifests.problems import close_match, in_order, pydantic_problems
from steercache.manifests.tree import MAX_BYTES, Tree, read_tree

VERSION = 1
SUFFIXES = (".yaml", ".yml")
FILES = (*SUFFIXES, ".json")  # a name that ends so is a file's: JSON is YAML, though nobody looks for it by name
FOLDERS = ("models", "datasets", "traces", "sweeps", "saes", "recipes")


def parse_manifest(text: str, *, file: str, kind: str | None = None) -> Manifest:
    """One document, checked; `file` is for messages. With `kind`, another kind is refused.

    Raises:
        ManifestError: with every problem of the document.
    """
    tree = read_tree(text, file=file)
    problems, hidden = [*tree.problems, *_head_problems(tree, file, kind)], 0
    kind_word = tree.value.get("kind") if isinstance(tree.value, dict) else None
    document = KINDS.get(kind_word) if isinstance(kind_word, str) else None
    if document is not None and len(problems) == len(tree.problems):
        try:
            valid = document.model_validate_json(json.dumps(tree.value))
        except ValidationError as error:
            found, hidden = pydantic_problems(error, tree, file=file, document=document)
            problems += found
        else:
            if not problems:
                return valid
    raise ManifestError("this manifest is not valid", problems=in_order(problems, hidden=hidden), place=file)


def read_manifest(path: Path, *, kind: str | None = None) -> Manifest:
    """The manifest in a file.

    Raises:
        NotFoundError: there is no such file.
        ManifestError: it cannot be read as text, or with every problem of the document.
    """
    return parse_manifest(_read_text(path), file=str(path), kind=kind)


def load_manifest(path_or_name: str | Path, *, kind: str | None = None, search: Iterable[Path] = ()) -> Manifest:
    """A manifest by file or by name; names are looked up in the folders of `search`, then among the shipped ones.

    Raises:
        NotFoundError: nothing answers to the name; the message has the nearest one.
        ManifestError: with every problem of the document.
    """
    return read_manifest(find_manifest(path_or_name, kind=kind, search=search), kind=kind)


def find_manifest(path_or_name: str | Path, *, kind: str | None = None, search: Iterable[Path] = ()) -> Path:
    """The file that `path_or_name` means: what looks like a file is one, anything else is a name.

    A name is a file's name without its suffix. It is looked up, never joined into a path.

    Raises:
        NotFoundError: no such file or name.
    """
    return manifests_named(path_or_name, kind=kind, search=search)[0]


def manifests_named(path_or_name: str | Path, *, kind: str | None = None, search: Iterable[Path] = ()) -> list[Path]:
    """Every file that `find_manifest` could mean, the one that it takes first. Raises as `find_manifest`."""
    text = str(path_or_name)
    if isinstance(path_or_name, Path) or "/" in text or "\\" in text or text.endswith(FILES):
        path = Path(path_or_name)
        if not _is_file(path):
            raise NotFoundError("there is no such manifest file", place=text, hint="steercache manifest list")
        return [path]
    known = manifest_files(search)
    named = [path for path in known if path.stem == text]
    fitting = [path for path in named if kind is None or declared_kind(path) in (kind, None)]
    if fitting:
        return fitting
    noun = f"{kind} manifest" if kind else "manifest"
    if named:
        raise NotFoundError(f"{text!r} is no {noun}: {named[0]} is a {declared_kind(named[0])}")
    stems = {path.stem for path in known if kind is None or declared_kind(path) == kind}
    raise NotFoundError(f"no {noun} named {text!r}{close_match(text, sorted(stems))}", hint="steercache manifest list")


def manifest_files(search: Iterable[Path] = ()) -> list[Path]:
    """Every manifest file of the folders of `search` (and of `models/`, `traces/` and the like in them), then the shipped."""
    folders = [*search, shipped_folder("manifests")]
    found: dict[Path, None] = {}
    for folder in folders:
        for inner in (folder, *(folder / name for name in FOLDERS)):
            for path in sorted(inner.iterdir()) if inner.is_dir() else ():
                if path.suffix in SUFFIXES and path.is_file():
                    found[path] = None
    return list(found)


def declared_kind(path: Path) -> str | None:
    """What a file says it is, whether or not the rest of it is valid; None when it cannot be read that far."""
    try:
        value = read_tree(_read_text(path), file=str(path)).value
    except (ManifestError, NotFoundError):
        return None  # reading it as a manifest will say what is wrong
    kind = value.get("kind") if isinstance(value, dict) else None
    return kind if isinstance(kind, str) else None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long, a folder that may not be looked into
        return False


def _read_text(path: Path) -> str:
    def fail(kind: str, message: str) -> ManifestError:
        problem = Problem(loc="", kind=kind, message=message, file=str(path))
        return ManifestError("this document cannot be read", problems=[problem], place=str(path))

    try:
        if not _is_file(path):
            raise NotFoundError("there is no such manifest file", place=str(path), hint="steercache manifest list")
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise fail("unreadable", f"cannot be read: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise fail("too_large", f"more than {MAX_BYTES // 1024} KiB; a manifest names data, it does not hold it")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise fail("encoding", f"not UTF-8: byte {error.start}") from None


def _head_problems(tree: Tree, file: str, wanted: str | None) -> list[Problem]:
    """What makes the rest unreadable: no mapping, an unknown kind, another version."""

    def problem(loc: str, kind: str, message: str) -> list[Problem]:
        path = (loc,) if loc else ()
        return [Problem(loc=loc, kind=kind, message=message, file=file, line=tree.line(path))]

    value: Any = tree.value
    if not isinstance(value, dict):
        return problem("", "type", "a manifest is a mapping of fields")
    kind = value.get("kind")
    if "kind" not in value:
        return problem("kind", "missing", f"is missing; one of {', '.join(KINDS)}")
    if not isinstance(kind, str) or kind not in KINDS:
        return problem(
            "kind", "choice", f"{kind!r:.60} is not one of {', '.join(KINDS)}{close_match(str(kind), KINDS)}"
        )
    if wanted is not None and kind != wanted:
        return problem("kind", "wrong_kind", f"a {wanted} manifest is needed here, this is a {kind}")
    version = value.get("version")
    if isinstance(version, int) and not isinstance(version, bool) and version > VERSION:
        return problem("version", "version", f"this steercache reads version {VERSION}: install a newer one")
    return []
