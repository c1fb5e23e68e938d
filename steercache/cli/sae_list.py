"""`steercache sae list`: the SAEs that can be named, and what is encoded with them."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from steercache.cli.options import json_option, root_option
from steercache.cli.output import human_bytes, next_commands, print_json, print_table
from steercache.core.errors import NotFoundError
from steercache.core.ids import SHORT_ID

if TYPE_CHECKING:
    from steercache.api.cache import Cache
    from steercache.api.sae_encoding import EncodedRun
    from steercache.api.sae_list import ListedSae


@click.command("list")
@click.option("--encoded", is_flag=True, help="Only what is encoded: every run with every SAE.")
@root_option
@json_option
def list_command(encoded: bool, root: Path, as_json: bool) -> None:
    """The SAEs that can be named, of manifests here and of those that ship, and the runs that are encoded with them.

    \b
    steercache sae list
    steercache sae list --encoded
    """
    from steercache.api.cache import open_cache_at
    from steercache.api.sae_list import listed_saes

    try:
        cache = open_cache_at(root)
    except NotFoundError:
        if encoded:
            raise
        cache = None  # before the first run there are SAEs to choose among, too
    saes = [one for one in listed_saes(None if cache is None else cache.folder) if one.encodings or not encoded]
    if as_json:
        print_json([record for one in saes for record in _records(one)])
        return
    if not encoded:
        columns = ["sae", "model", "layers", "release or folder", "encoded runs"]
        print_table(columns, [_line(one, cache) for one in saes])
    if cache is not None and (found := [encoding for one in saes for encoding in one.encodings]):
        if not encoded:
            click.echo()
        _print_encodings(found, cache)
    else:
        next_commands("steercache sae show SAE", "steercache sae encode SAE --run RUN")


def plain_encoding(one: "EncodedRun") -> dict[str, Any]:
    """An encoding as the values of JSON."""
    return {
        "sae": one.sae.name,
        "sae_id": one.sae.sae_id,
        "run_id": one.run_id,
        "site": one.site,
        "layer": one.layer,
        "n_features": one.sae.d_sae,
        "n_rows": one.n_rows,
        "n_rows_of_run": one.n_rows_of_run,
        "n_rows_new": one.n_rows_new,
        "n_entries": one.n_entries,
        "n_non_finite": one.n_non_finite,
        "lossy": one.lossy,
        "n_bytes": one.n_bytes,
        "seconds": one.seconds,
    }


def _records(one: "ListedSae") -> list[dict[str, Any]]:
    """An object for each encoding, and for an SAE without any one with `run_id` null."""
    known = {"manifest": one.name if one.file else None, "model": one.model, "layers": one.layers, "place": one.place}
    encodings = [plain_encoding(encoding) for encoding in one.encodings]
    return [record | known for record in encodings or [{"sae": one.name, "sae_id": None, "run_id": None}]]


def _line(one: "ListedSae", cache: "Cache | None") -> list[Any]:
    runs = dict.fromkeys(cache.folder.name_of(encoding.run_id) for encoding in one.encodings if cache is not None)
    return [one.name, one.model, _ranges(one.layers) or "-", one.place, ", ".join(runs) or "-"]


def _ranges(layers: tuple[int, ...]) -> str:
    """Layers in short, as the options take them.

    >>> _ranges((0, 1, 2, 5, 7, 8))
    '0-2,5,7-8'
    """
    parts: list[list[int]] = []
    for layer in layers:
        if parts and layer == parts[-1][-1] + 1:
            parts[-1].append(layer)
        else:
            parts.append([layer])
    return ",".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)


def _print_encodings(encodings: "list[EncodedRun]", cache: "Cache") -> None:
    columns = ["sae", "name", "kind", "run", "site", "layer", "features", "rows", "of", "L0", "size"]
    rows = [
        [
            one.sae.sae_id[:SHORT_ID],
            one.sae.name,
            one.sae.architecture,
            cache.folder.name_of(one.run_id),
            one.site,
            one.layer,
            f"{one.sae.d_sae:,}",
            f"{one.n_rows:,}",
            f"{one.n_rows_of_run:,}",
            f"{one.l0:.1f}",
            human_bytes(one.n_bytes),
        ]
        for one in encodings
    ]
    print_table(columns, rows)
