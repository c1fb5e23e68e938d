"""`steercache report html`: one self-contained page about a sweep."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from steercache.cli.completion import complete_sweeps
from steercache.cli.options import json_option, root_option
from steercache.cli.output import human_bytes, note, print_json
from steercache.core.ids import SHORT_ID

if TYPE_CHECKING:
    from steercache.api.reporting import Report


@click.command("html")
@click.argument("sweep", shell_complete=complete_sweeps)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write, .html; by default in the cache's folder pictures/.",
)
@root_option
@json_option
def html_command(sweep: str, out: Path | None, root: Path, as_json: bool) -> None:
    """Write one page about SWEEP, an evaluation or one task of a grid (by name, id or prefix).

    Table, gains with their intervals beside the controls, the grid as a heat map, answers before and after, and how often the
    test split was looked at; made from the stored answers. The file loads nothing from the network and runs no script.

    \b
    steercache report html eval-tiny-scenes --out report.html
    """
    from steercache.api.cache import open_cache_at
    from steercache.api.reporting import write_report

    found = write_report(open_cache_at(root).session, sweep, out)
    if as_json:
        print_json({"page": str(found.path), "report": found.table})
        return
    for verdict in found.verdicts:
        click.echo(verdict)
    if found.n_namesakes and sweep in (found.table.name, found.table.manifest.get("sweep")):
        note(_which(found))
    if found.table.inferred:
        note(
            "an older steercache wrote the sweep and did not store which cells it chose: they are inferred from its answers"
        )
    if not found.table.clustered:
        note("the sweep does not record the picture of a question: the intervals take questions as independent")
    click.echo(f"{found.path}  ({human_bytes(found.path.stat().st_size)})")


def _which(found: "Report") -> str:
    """Which of the sweeps of one name this is: every evaluation of a model on a benchmark has the same."""
    table, n = found.table, found.n_namesakes
    saved = "" if table.created_at is None else f", saved {table.created_at[:19]} UTC"
    others = "1 other has" if n == 1 else f"{n} others have"
    return f"this is the newest {table.name!r}, sweep {table.sweep_id[:SHORT_ID]}{saved}; {others} that name"
