"""How results reach the terminal: JSON on stdout for programs, tables and notes for people."""

import json
import math
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from steercache.api.paths import address_of
from steercache.cli.streams import is_unicode, say

if TYPE_CHECKING:
    from steercache.cli.progress import Bar

MIN_COLUMNS = 40  # a terminal that says it is narrower gets lines that wrap
PIPE_COLUMNS = 140


def print_json(value: Any) -> None:
    """One JSON document on stdout; characters that stdout cannot take are JSON escapes."""
    text = json.dumps(_plain(value), indent=2, ensure_ascii=not is_unicode(sys.stdout), allow_nan=False)
    click.echo(text)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has no NaN
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, title: str | None = None) -> None:
    """A table on stdout; numbers to the right."""
    from rich.table import Table  # rich is not needed for help, JSON and completion
    from rich.text import Text

    from steercache.cli.progress import OwnConsole

    table = Table(title=title, title_justify="left", show_edge=False, pad_edge=False, header_style="bold")
    for at, name in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[at], int | float) or row[at] is None for row in rows)
        table.add_column(Text(name), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row))  # text as it is: a token may look like markup
    width = max(shutil.get_terminal_size().columns, MIN_COLUMNS) if sys.stdout.isatty() else PIPE_COLUMNS
    OwnConsole(width=width, highlight=False).print(table)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def note(text: str) -> None:
    """A line for the person at the terminal, on stderr."""
    say(text)


ROOTLESS = ("manifest",)  # commands that look into no cache
GUIDED = "guided"  # a command that is run by another one, which says itself what comes next


def next_commands(*commands: str) -> None:
    """What to type next."""
    context = click.get_current_context(silent=True)
    if context is not None and context.find_root().obj == GUIDED:
        return
    say("next:", dim=True)
    for command in commands:
        where = "" if context is None or "--root" in command else _same_root(context, command)
        say(f"  {command}{where}")


def _same_root(context: click.Context, command: str) -> str:
    """` --root DIR` where the command that runs had another root than the default and the next one takes one."""
    root = context.params.get("root")
    usual = context.get_parameter_source("root") is click.core.ParameterSource.DEFAULT
    if root is None or usual or command.split()[1] in ROOTLESS:
        return ""
    return at_root(root)


def at_root(root: Path, *, default: Path | None = Path("cache")) -> str:
    """What a printed command needs to find the cache `root` from any folder; nothing for the `default` one.

    Of a mirror it is the address that was given.

    >>> at_root(Path("/data/my cache")), at_root(Path("cache"))
    (" --root '/data/my cache'", '')
    """
    if root == default:
        return ""
    return f" --root {shlex.quote(address_of(root) or str(root.absolute()))}"


def human_bytes(n_bytes: float) -> str:
    """Bytes for people.

    >>> human_bytes(1536), human_bytes(3 * 2**30)
    ('1.5 KiB', '3.0 GiB')
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(n_bytes) < 1024:
            return f"{n_bytes:.0f} B" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:.1f} TiB"


@contextmanager
def progress_bar(label: str, *, total: int | None, unit: str, quiet: bool = False) -> Iterator["Bar"]:
    """As `cli.progress.progress_bar`, which is imported when it is used."""
    from steercache.cli import progress

    with progress.progress_bar(label, total=total, unit=unit, quiet=quiet) as bar:
        yield bar
