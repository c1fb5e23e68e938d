"""`steercache report patches`: a concept's direction over a picture."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from steercache.cli.completion import complete_runs, complete_vectors
from steercache.cli.options import (
    LocalPath,
    allow_foreign_option,
    json_option,
    parse_layers,
    picture_option,
    root_option,
    takes,
)
from steercache.cli.output import note, print_json, print_table
from steercache.core.errors import UsageError

if TYPE_CHECKING:
    from steercache.analysis.patches import PatchMaps


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchOptions:
    """Which picture is drawn along which vector, as typed."""

    run: str
    sample: str
    vector: str
    layers: str
    view: Literal["fine", "small"]
    picture: Path | None
    allow_foreign: bool
    out: Path | None
    root: Path
    as_json: bool


@click.command("patches")
@click.argument("run", shell_complete=complete_runs)
@click.argument("sample")
@click.argument("vector", shell_complete=complete_vectors)
@click.option("--layer", "layers", required=True, help="Blocks, such as 4,8,12; each is one panel.")
@click.option(
    "--view",
    type=click.Choice(["fine", "small"]),
    default="fine",
    show_default=True,
    help="For models that read a picture as tiles and as a whole: the view with the most or with the fewest patches.",
)
@click.option(
    "--picture",
    type=LocalPath(path_type=Path, exists=True, dir_okay=False),
    help="File of the picture, if the data set cannot be read any more.",
)
@allow_foreign_option
@picture_option
@root_option
@json_option
@takes(PatchOptions)
def patches_command(asked: PatchOptions) -> None:
    """Draw the projections of a picture's patches on VECTOR over the picture, one panel per layer.

    RUN is a multimodal run that kept image rows; SAMPLE is a sample's number in the run, its id, or a prefix of six or more
    characters. The picture is read from the data set of the run.

    \b
    steercache report patches demo-pictures 12 red --layer 5,9,13 --out patches.png
    """
    import numpy as np

    from steercache.api.cache import open_cache_at
    from steercache.api.pictures import draw_patches

    layers = parse_layers(asked.layers) or []
    if len(layers) > 20:
        raise UsageError(f"{len(layers)} panels are too many for one picture", hint="--layer 4,8,12")
    cache = open_cache_at(asked.root)
    maps = cache.patches(
        asked.run, asked.sample, asked.vector, layers=layers, view=asked.view, allow_foreign=asked.allow_foreign
    )
    path = asked.out or asked.root / "pictures" / f"patches-{maps.vector}-{maps.sample.sample_id[:8]}.png"
    draw_patches(cache.session, maps, path, picture=asked.picture)
    if asked.as_json:
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
    title = f"{shape} patches along {maps.vector}: {maps.sample.question or maps.sample.sample_id[:12]}"
    print_table(["layer", "mean projection", "spread", "highest", "at"], rows, title=title)
    for line in maps.notes:
        note(line)
    click.echo(str(path))


def _plain(maps: "PatchMaps") -> dict[str, Any]:
    """The maps as JSON; NaN, where no row was kept, as null."""
    import numpy as np

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
