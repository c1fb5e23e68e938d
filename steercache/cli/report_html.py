"""`steercache report html`: one self-contained page about sweeps."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from steercache.cli.completion import complete_sweeps
from steercache.cli.options import LocalPath, json_option, root_option
from steercache.cli.output import human_bytes, note, print_json
from steercache.cli.typed import typed_command
from steercache.core.ids import SHORT_ID

if TYPE_CHECKING:
    from steercache.api.reporting import ReportedSweep
    from steercache.sweeps.table import SweepTable


@click.command("html")
@click.argument("sweeps", metavar="SWEEP [SWEEP ...]", nargs=-1, required=True, shell_complete=complete_sweeps)
@click.option(
    "--out",
    type=LocalPath(path_type=Path, dir_okay=False),
    help="File to write, .html; by default in the cache's folder pictures/.",
)
@root_option
@json_option
def html_command(sweeps: tuple[str, ...], out: Path | None, root: Path, as_json: bool) -> None:
    """Write one page about SWEEP, an evaluation, a grid or one task of it (by name, id or prefix), or several side by side.

    Accuracy with intervals and controls, the grid as a heat map, gain against strength and against damage, predictions beside
    answers, the vectors layer by layer, SAE features, single questions before and after, and what all of it was made from. Made
    from the cache alone; what the cache lacks is named. The file loads nothing from the network and runs no script.

    \b
    steercache report html eval-tiny-scenes --out report.html
    """
    from steercache.api.cache import open_cache_at
    from steercache.api.reporting import write_report

    found = write_report(open_cache_at(root).session, sweeps, out, command=typed_command())
    if as_json:
        tables = [one.table for one in found.sweeps]
        print_json({"page": str(found.path), "report": tables[0], "reports": tables})
        return
    for one in found.sweeps:
        _say(one, sweeps, several=len(found.sweeps) > 1)
    click.echo(f"{found.path}  ({human_bytes(found.path.stat().st_size)})")


def _say(found: "ReportedSweep", named: tuple[str, ...], *, several: bool) -> None:
    """The verdicts of one sweep, and what a reader must know of its table."""
    for verdict in found.verdicts:
        click.echo(f"{found.name}: {verdict}" if several else verdict)
    if found.table is None:
        note(f"{found.name} has no table of right answers: the page shows its cells and texts")
        return
    if found.n_namesakes and {found.table.name, found.table.manifest.get("sweep")} & {*named}:
        note(_which(found.table, found.n_namesakes))
    if found.table.inferred:
        note(
            "an older steercache wrote the sweep and did not store which cells it chose: they are inferred from its answers"
        )
    if not found.table.clustered:
        note("the sweep does not record the picture of a question: the intervals take questions as independent")


def _which(table: "SweepTable", n: int) -> str:
    """Which of the sweeps of one name this is: every evaluation of a model on a benchmark has the same."""
    saved = "" if table.created_at is None else f", saved {table.created_at[:19]} UTC"
    others = "1 other has" if n == 1 else f"{n} others have"
    return f"this is the newest {table.name!r}, sweep {table.sweep_id[:SHORT_ID]}{saved}; {others} that name"
