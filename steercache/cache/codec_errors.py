"""What a lossy codec did to a run, layer by layer: summed over the records of its shards."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from steercache.core.errors import DamagedError, NotFoundError
from steercache.core.layout import CodecError, ShardRecord
from steercache.store.generation import read_generation, update_attributes

ATTRIBUTE = "codec_error"  # of a generation's group, for readers that know Zarr and not our records


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerError:
    """What a lossy codec did to one layer of a run, over its rows (see `core.layout.CodecError`).

    `n_rows` and the means are None of generations from before they were kept, for which only the worst rows are known.
    """

    site: str
    layer: int
    max_relative: float
    min_cosine: float
    max_abs: float
    n_rows: int | None = None
    mean_relative: float | None = None
    mean_cosine: float | None = None


def layer_errors(records: Iterable[ShardRecord], generation: Path) -> tuple[LayerError, ...]:
    """The errors of a generation's rows by site and layer; () where its codec is lossless.

    They are in the records of its shards. Where one was written by an earlier version, which kept the worst rows of the
    generation only, those are what is known.
    """
    parts: dict[tuple[str, int], list[CodecError]] = {}
    older: dict[tuple[str, int], LayerError] | None = None
    for record in records:
        if not record.codec_errors and older is None:
            older = {(one.site, one.layer): one for one in _in_attributes(generation)}
            if not older:
                return ()
        for part in record.codec_errors:
            parts.setdefault((part.site, part.layer), []).append(part)
    summed = {place: _summed(*place, errors) for place, errors in parts.items()}
    if older is None:
        return tuple(summed.values())
    return tuple(_worse_of(error, summed.get(place)) for place, error in older.items())


def keep_layer_errors(generation: Path, errors: Sequence[LayerError]) -> None:
    """Write the errors of a generation into its group, durably; () changes nothing."""
    if errors:
        by_site: dict[str, list[dict[str, Any]]] = {}
        for one in errors:
            by_site.setdefault(one.site, []).append({k: v for k, v in asdict(one).items() if k != "site"})
        update_attributes(generation, {ATTRIBUTE: by_site})


def worst_of(errors: Sequence[LayerError]) -> dict[str, float]:
    """The worst row of all sites and layers, by measure, and the largest mean; {} of no errors."""
    if not errors:
        return {}
    found = {
        "max_abs": max(one.max_abs for one in errors),
        "max_relative": max(one.max_relative for one in errors),
        "min_cosine": min(one.min_cosine for one in errors),
    }
    means = [one.mean_relative for one in errors if one.mean_relative is not None]
    return found | ({"mean_relative": max(means)} if means else {})


def _summed(site: str, layer: int, parts: Sequence[CodecError]) -> LayerError:
    n = sum(part.n_rows for part in parts)
    return LayerError(
        site=site,
        layer=layer,
        n_rows=n,
        max_relative=max(part.max_relative for part in parts),
        mean_relative=math.fsum(part.n_rows * part.mean_relative for part in parts) / n if n else 0.0,
        max_abs=max(part.max_abs for part in parts),
        min_cosine=min(part.min_cosine for part in parts),
        mean_cosine=math.fsum(part.n_rows * part.mean_cosine for part in parts) / n if n else 1.0,
    )


def _in_attributes(generation: Path) -> list[LayerError]:
    try:
        attributes: Mapping[str, Any] = read_generation(generation).attributes
        return [
            LayerError(
                site=str(site),
                layer=int(entry["layer"]),
                max_relative=float(entry["max_relative"]),
                min_cosine=float(entry["min_cosine"]),
                max_abs=float(entry["max_abs"]),
            )
            for site, entries in attributes.get(ATTRIBUTE, {}).items()
            for entry in entries
        ]
    except (DamagedError, NotFoundError):
        return []  # said by whoever opens it
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return []  # not as we write it: nothing is known, and the rows are still marked as lossy


def _worse_of(older: LayerError, newer: LayerError | None) -> LayerError:
    """The worst rows of both; of some of the rows no mean is known."""
    if newer is None:
        return older
    return LayerError(
        site=older.site,
        layer=older.layer,
        max_relative=max(older.max_relative, newer.max_relative),
        min_cosine=min(older.min_cosine, newer.min_cosine),
        max_abs=max(older.max_abs, newer.max_abs),
    )
