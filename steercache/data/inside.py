"""Paths in a data file: they must stay inside that file's folder."""

from pathlib import Path, PurePosixPath, PureWindowsPath

from steercache.core.errors import ManifestError, Problem
from steercache.core.excerpts import excerpt


def leads_out(folder: Path, path: Path) -> bool:
    """Whether `path`, links followed, is outside `folder`. A snapshot of the hub's own cache links to the blobs beside it."""
    root = folder.resolve()
    roots = [root, root.parent.parent / "blobs"] if root.parent.name == "snapshots" else [root]
    return not any(path.resolve().is_relative_to(allowed) for allowed in roots)


def resolve_inside(folder: Path, name: str) -> Path | str:
    """The file `name` under `folder`, or the reason why it cannot be used.

    Refused are absolute paths, `..`, and links that lead out of the folder.
    """
    if "\0" in name or not name.strip():
        return "not a file's name"
    if PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor:
        return "an absolute path; paths stand relative to the data file"
    if ".." in PurePosixPath(name).parts or ".." in PureWindowsPath(name).parts:
        return "`..` leads out of the data set's folder"
    try:
        root = folder.resolve(strict=True)
        path = (root / name).resolve(strict=True)
    except (OSError, RuntimeError, ValueError):  # links in a circle; half a surrogate pair in the name
        return "there is no such file"
    if leads_out(root, path):
        return "a link leads out of the data set's folder"
    return path if path.is_file() else "not a file"


def read_inside(folder: Path, name: str, *, place: str) -> bytes:
    """The bytes of a file under `folder`, looked at again when they are needed.

    Raises:
        ManifestError: it is gone, unreadable, or now leads elsewhere.
    """
    path = resolve_inside(folder, name)
    if isinstance(path, Path):
        try:
            return path.read_bytes()
        except OSError as error:
            path = f"cannot be read: {error.strerror}"
    problem = Problem(loc="image", kind="image", message=f"{excerpt(name)}: {path}", file=place)
    raise ManifestError("a picture of the data set cannot be read", problems=[problem], place=place)
