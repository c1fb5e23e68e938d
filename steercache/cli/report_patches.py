"""`steercache report patches`: a concept's direction over a picture."""

from pathlib import Path
from typing import Any

import click
import numpy as np

from steercache.analysis.patches import PatchMaps, find_sample, patch_maps
from steercache.analysis.pictures import picture_of
from steercache.cli.fit import parse_layers
from steercache.cli.options import allow_foreign_option, json_option, picture_option, root_option
from steercache.cli.output import note, print_json, print_table
from steercache.core.errors import UsageError
from steercache.queries.session import open_session
from steercache.report.patches import patch_chart
from steercache.report.style import save_chart


@click.command("patches")
@click.argument("run")
@click.argument("sample")
@click.argument("vector")
@click.option("--layer", "layers", required=True, help="Blocks, a panel each: 4,8,12.")
@click.option(
    "--view",
    type=click.Choice(["fine", "small"]),
    default="fine",
    show_default=True,
    help="Where the model looks twice (tiles and the whole picture): the look with most, or with fewest patches.",
)
@click.option("--picture", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="The picture's file.")
@allow_foreign_option
@picture_option
@root_option
@json_option
def patches_command(run: str, sample: str, vector: str, root: Path, **asked: Any) -> None:
    """Draw the projections of a picture's patches on VECTOR over the picture, one panel per layer.

    RUN is a multimodal run that kept image rows; SAMPLE its number in the run, or its id or a prefix of six or more. The
    picture itself is read again from the run's data set.

    \b
    steercache report patches demo-pictures 12 red --layer 5,9,13 --out patches.png
    """
    session = open_session(root)
    layers = parse_layers(asked["layers"]) or []
    if len(layers) > 20:
        raise UsageError(f"{len(layers)} panels are too many for one picture", hint="--layer 4,8,12")
    one = find_sample(session, run, sample)
    maps = patch_maps(session, one, vector, layers=layers, view=asked["view"], allow_foreign=asked["allow_foreign"])
    path = asked["out"] or root / "pictures" / f"patches-{maps.vector}-{one.sample_id[:8]}.png"
    save_chart(patch_chart(maps, picture_of(session, one, asked["picture"])), path)
    if asked["as_json"]:
        print_json({"picture": str(path), **_plain(maps)})
        return
    rows = [
        [
            m.layer,
            m.mean,
            float(np.nanstd(m.projection_rc)),
            float(np.nanmax(m.projection_rc)),
            f"row {m.peak[0]}, column {m.peak[1]}",
        ]
        for m in maps.maps
    ]
    shape = "{} x {}".format(*maps.maps[0].projection_rc.shape)
    title = f"{shape} patches along {maps.vector}: {one.question or one.sample_id[:12]}"
    print_table(["layer", "mean projection", "spread", "highest", "at"], rows, title=title)
    for line in maps.notes:
        note(line)
    click.echo(str(path))


def _plain(maps: PatchMaps) -> dict[str, Any]:
    """The maps as JSON; NaN, where no row was kept, as null."""
    return {
        "sample": maps.sample,
        "vector": maps.vector,
        "view": maps.view,
        "notes": maps.notes,
        "layers": [
            {
                "layer": m.layer,
                "mean": m.mean,
                "peak": m.peak,
                "projection": [[None if np.isnan(v) else float(v) for v in line] for line in m.projection_rc],
            }
            for m in maps.maps
        ],
    }
