"""`steercache report drift`: the same tokens in two runs, layer by layer."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from steercache.cli.completion import complete_runs
from steercache.cli.options import RenamedOption, json_option, parse_layers, picture_option, root_option, takes
from steercache.cli.output import print_json, print_table, progress_bar

if TYPE_CHECKING:
    from steercache.analysis.drift import Drift


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftOptions:
    """Which runs are compared, as typed."""

    run: str
    other: str
    site: str
    layers: str | None
    text_only: bool
    out: Path | None
    root: Path
    as_json: bool


@click.command("drift")
@click.argument("run", shell_complete=complete_runs)
@click.argument("other", shell_complete=complete_runs)
@click.option("--site", default="resid_post", show_default=True, help="Site of the rows, such as resid_post.")
@click.option(
    "--layer",
    "layers",
    cls=RenamedOption,
    former=["--layers"],
    help="Blocks to compare, such as 5,10,12-20; by default every block that both runs keep.",
)
@click.option(
    "--text-only", is_flag=True, help="Match inputs by their text tokens alone, without pictures and chat template."
)
@picture_option
@root_option
@json_option
@takes(DriftOptions)
def drift_command(asked: DriftOptions) -> None:
    """Compare RUN, of a backbone, with OTHER, of the multimodal model grown from it, on the tokens that both have.

    Both are traces of the same text, by name, id or prefix. Prints cosine and relative distance per layer and role of
    the token; "unrelated" is the cosine with a random other text token, for comparison.

    \b
    steercache report drift smollm2-concepts smolvlm-256m-concepts --out drift.png
    """
    from steercache.api.cache import open_cache_at
    from steercache.api.pictures import draw

    cache = open_cache_at(asked.root)
    with progress_bar("layers", total=None, unit="", quiet=asked.as_json) as bar:
        found = cache.drift(
            asked.run,
            asked.other,
            site=asked.site,
            layers=parse_layers(asked.layers),
            text_only=asked.text_only,
            progress=bar.show,
        )
    path = asked.out or asked.root / "pictures" / f"drift-{found.run}-{found.other}.png"
    if not asked.as_json:
        _print(found)
    draw(found, path)
    if asked.as_json:
        print_json({"picture": str(path), "drift": found})
    else:
        click.echo(str(path))


def _print(found: "Drift") -> None:
    from steercache.api.analyses import ROLES

    roles = [role for role in ROLES if any(row.role == role for row in found.rows)]
    at = {(row.layer, row.role): row for row in found.rows}
    named = {role: "first position" if role == "first" else role for role in roles}
    columns = [
        "layer",
        *(f"cos {named[r]}" for r in roles),
        "unrelated",
        *(f"dist {named[r]}" for r in roles),
        "norm ratio",
    ]
    rows = []
    for layer in sorted({row.layer for row in found.rows}):
        own = [at[layer, role] for role in roles]
        main = own[0]
        rows.append(
            [layer, *(r.cosine for r in own), main.unrelated, *(r.distance for r in own), main.norm_ratio],
        )
    title = (
        f"{found.model} to {found.other_model}: {found.n_tokens:,} tokens of {found.n_samples:,} samples, {found.site}"
    )
    print_table(columns, rows, title=title)
