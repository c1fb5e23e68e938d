"""Which paths DuckDB can keep a file at. Needs no DuckDB, so that a wrong folder is refused before any work."""

from pathlib import Path

from steercache.core.errors import UsageError

INDEX_NAME = "index.duckdb"
_REFUSED = {
    "?": "`?`",
    "\\": "a backslash",
    "\0": "a null character",
}  # read as the start of options, a separator, an end


def duckdb_name(path: Path) -> str:
    """The absolute path of an index, links followed as DuckDB does; a relative `~/x` or `md:x` would mean another place to it.

    Raises:
        UsageError: the path has a character that DuckDB cannot have in a path, or is not UTF-8.
    """
    try:
        name = str(path.absolute().resolve())
    except (
        RuntimeError,
        OSError,
        ValueError,
    ) as error:  # RuntimeError: links in a circle; ValueError: a null character
        raise UsageError(f"this is no path: {error}", place=repr(str(path)), hint="choose another folder") from None
    wrong = [words for character, words in _REFUSED.items() if character in name]
    if any("\ud800" <= character <= "\udfff" for character in name):
        wrong.append("a name that is not UTF-8")
    if wrong:
        message = f"the cache's index, a DuckDB file, cannot lie in a folder with {' and '.join(wrong)} in its path"
        raise UsageError(message, place=name, hint="choose a folder without it in its path")
    return name


def home_expanded(root: Path) -> Path:
    """`root` with a leading `~` replaced by the home folder: shells leave it in `--root=~/x`, and pyarrow would replace it.

    Raises:
        UsageError: there is no such user, or no home folder.
    """
    try:
        return root.expanduser()
    except RuntimeError as error:
        raise UsageError(f"`~` cannot be replaced: {error}", place=str(root), hint="write the whole path") from None
