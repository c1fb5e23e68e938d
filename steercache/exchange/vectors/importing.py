"""Another tool's file as a vector; what it does not say is given, or refused."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from steercache.cache.vector_files import vector_of
from steercache.core.errors import UsageError
from steercache.core.vector_use import PLACES, VectorUse
from steercache.core.vectors import FittedOn, SteeringVector
from steercache.exchange.vectors.formats import FORMATS, format_of
from steercache.exchange.vectors.held import HeldVector, Norm, read_limited, refused

METHOD: Final = "imported"
MAX_OFFSET: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedVector:
    """The vector, whether it is the one that was exported (the same id), and what was lost on the way."""

    vector: SteeringVector
    same_id: bool
    lost: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportTerms:
    """What the caller says about a file: block = number in the file + `layer_offset`; `layers` are the numbers of rows that
    have none. None: as the format says, if it does."""

    site: str | None = None
    layer_offset: int | None = None
    norm: Norm | None = None
    layers: tuple[int, ...] | None = None
    name: str | None = None
    concept: str | None = None
    fitted_on: FittedOn | None = None
    ignore_header: bool = False


def read_held(path: Path, *, source: str | None, layers: Sequence[int] | None = None) -> HeldVector:
    """What a file holds; `layers` number rows that have no numbers. Raises UsageError."""
    held = FORMATS[format_of(path, source)].read(path)
    if layers is None:
        return held
    if held.numbered:
        raise refused(path, "numbers its layers itself", "give an offset to them, if they count otherwise")
    if len(layers) != len(held.values) or len(set(layers)) != len(layers):
        raise refused(path, f"holds {len(held.values)} directions, and {len(set(layers))} layers are named for them")
    return replace(held, values=dict(zip(layers, held.values.values(), strict=True)), numbered=True)


def import_vector(path: Path, *, source: str | None = None, terms: ImportTerms | None = None) -> ImportedVector:
    """The vector in a file of the format `source` (by the file's name, where that says it).

    A file that steercache wrote gives the vector back with the same id, or says what is lost.

    Raises:
        UsageError: a file that cannot be read, that holds anything but a vector, that is not the vector its header describes,
            or that does not say where it belongs: names everything that is missing.
    """
    said = terms or ImportTerms()
    held = read_held(path, source=source, layers=said.layers)
    if held.header is not None and not said.ignore_header:
        return _ours(path, held, held.header, said)
    missing = [
        words
        for words, lacks in (
            ("the layers of its rows", not held.numbered),
            ("the site (where in a block it was measured)", (said.site or held.site) is None),
            ("the layer offset (block = its number + offset)", _first(said.layer_offset, held.layer_offset) is None),
            ("the norm (keep: the lengths count; unit: bring them to 1)", (said.norm or held.norm) is None),
        )
        if lacks
    ]
    if missing:
        raise refused(path, f"does not say {'; nor '.join(missing)}", "say it, from where the file was made")
    return _foreign(path, held, said, source=format_of(path, source))


def _first(*values: int | None) -> int | None:
    return next((one for one in values if one is not None), None)


def _foreign(path: Path, held: HeldVector, said: ImportTerms, *, source: str) -> ImportedVector:
    site, offset, norm = said.site or held.site, _first(said.layer_offset, held.layer_offset), said.norm or held.norm
    assert site is not None
    assert offset is not None
    if site not in PLACES:
        raise UsageError(f"no site named {site!r:.60}", hint=f"choose one of: {', '.join(PLACES)}")
    if norm not in ("keep", "unit"):
        raise UsageError(f"no norm named {norm!r:.60}", hint="choose keep or unit")
    if abs(offset) > MAX_OFFSET or min(held.values) + offset < 0:
        raise refused(
            path, f"its layer {min(held.values)} with the offset {offset} would be block {min(held.values) + offset}"
        )
    values = np.stack(list(held.values.values()))
    if norm == "unit":
        lengths = np.linalg.norm(values.astype(np.float64), axis=1, keepdims=True)
        if not lengths.all():
            raise refused(path, "a direction is zero and cannot be brought to unit length")
        values = (values / lengths).astype(np.float32)
    layers = tuple(number + offset for number in held.values)
    imported = {
        "format": source,
        "sha256": hashlib.sha256(read_limited(path)).hexdigest(),
        "layer_offset": offset,
        "norm": norm,
        "about": dict(held.about),
    }
    use = held.use or VectorUse(phase="both")
    vector = SteeringVector(
        name=said.name or path.stem,
        method=METHOD,
        concept=said.concept,
        site=site,
        layers=layers,
        values=values,
        provenance={"imported": imported, "params": {}},
        fitted_on=said.fitted_on,
        use=replace(use, place=site, layers=None) if held.use is not None or site in PLACES else None,
    )
    return ImportedVector(vector=vector, same_id=False, notes=held.notes)


def _ours(path: Path, held: HeldVector, header: Mapping[str, Any], said: ImportTerms) -> ImportedVector:
    """The vector that the header describes, of the layers that the file holds."""
    try:
        layers = [layer for layer in header["layers"] if layer in held.values]
        if not layers or set(held.values) - set(layers):
            raise ValueError("it holds other layers than its header names")
        values = np.stack([held.values[layer] for layer in layers])
        head = dict(header) | {"layers": layers, "name": said.name or header["name"]}
        left_out = [layer for layer in header["layers"] if layer not in held.values]
        if left_out or header.get("scaled"):
            made = {
                "exported_from": header["vector_id"],
                "left_out_layers": left_out,
                "scaled": bool(header.get("scaled")),
            }
            head["provenance"] = {**header["provenance"], **made}
            head["diagnostics"] = [d for d in header["diagnostics"] if d.get("layer") in layers]
        vector = vector_of(head, values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise refused(path, f"its header of steercache describes no vector: {error}") from error
    lost = [f"layers {', '.join(map(str, left_out))}"] if left_out else []
    lost += ["the values before they were multiplied by the strength"] if header.get("scaled") else []
    same = vector.vector_id == header.get("vector_id")
    if not same and not lost:
        raise refused(
            path,
            "its values are not those that its header of steercache describes: it was changed after it was written",
            "ignore the header, and say where the vector belongs",
        )
    return ImportedVector(vector=vector, same_id=same, lost=tuple(lost), notes=held.notes)
