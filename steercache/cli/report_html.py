"""`steercache report html`: one self-contained page about a sweep."""

import re
from pathlib import Path

import click

from steercache.cli.options import json_option, root_option
from steercache.cli.output import human_bytes, note, print_json
from steercache.core.errors import UsageError
from steercache.core.ids import SHORT_ID
from steercache.queries.session import open_session
from steercache.report.page import save_page, verdict
from steercache.sweeps.find import count_namesakes, read_sweep
from steercache.sweeps.table import SweepTable


@click.command("html")
@click.argument("sweep")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="File; by default below the cache's pictures/."
)
@root_option
@json_option
def html_command(sweep: str, out: Path | None, root: Path, as_json: bool) -> None:
    """Write one page about SWEEP, an evaluation or one task of a grid (by name, id or prefix).

    Table, gains with their intervals beside the controls, the grid as a heat map, answers before and after, and how often the
    test split was looked at; made again from the stored answers. The file asks no network and runs no script.

    \b
    steercache report html eval-tiny-scenes --out report.html
    """
    session = open_session(root)
    found = read_sweep(session, sweep)
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", found.name).strip("-.")
    path = out or root / "pictures" / f"{plain}-{found.sweep_id[:SHORT_ID]}.html"
    if path.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{path.name!r} is no .html", hint=f"--out {path.stem or 'report'}.html")
    save_page(found, path)
    if as_json:
        print_json({"page": str(path), "report": found})
        return
    for row in found.splits[-1].rows:
        click.echo(verdict(row))
    n_namesakes = count_namesakes(session, found)
    if n_namesakes and sweep in (found.name, found.manifest.get("sweep")):
        note(_which(found, n_namesakes))
    if found.inferred:
        note(
            "an older steercache wrote the sweep and did not say which cells it chose: they are worked out from its answers"
        )
    if not found.clustered:
        note("the sweep does not say which picture a question is of: intervals take every question for itself")
    click.echo(f"{path}  ({human_bytes(path.stat().st_size)})")


def _which(found: SweepTable, n_namesakes: int) -> str:
    """Which of the sweeps of one name this is: every evaluation of a model on a benchmark has the same."""
    saved = "" if found.created_at is None else f", saved {found.created_at[:19]} UTC"
    others = "1 other has" if n_namesakes == 1 else f"{n_namesakes} others have"
    return f"this is the newest {found.name!r}, sweep {found.sweep_id[:SHORT_ID]}{saved}; {others} that name"
