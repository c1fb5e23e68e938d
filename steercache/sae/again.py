"""An SAE vector's SAEs, loaded again from what its provenance says, and the vector fitted again."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from pydantic import ValidationError

from steercache.core.errors import NotFoundError, UsageError
from steercache.core.ids import SHORT_ID
from steercache.core.recorded_rows import SelectsRows, rows_of
from steercache.core.vectors import LOCATED, SteeringVector
from steercache.manifests.sae import SaeManifest
from steercache.sae.candidates import Encodes, find_candidates
from steercache.sae.loaded import LoadedSae
from steercache.sae.loading import load_sae
from steercache.sae.vector import METHOD, Verification, vector_of
from steercache.sae.verdict import ANSWERS, Verdict

Load = Callable[[Mapping[str, Any]], Encodes]
DTYPES: Final = ("float32", "bfloat16", "float16")


def load_recorded(record: Mapping[str, Any]) -> Encodes:
    """The SAE that `SaeSpec.record()` describes, from the folder or release it was loaded from.

    Raises:
        UsageError: the record does not say where it came from, or its weights are others now. NotFoundError: it is gone.
    """
    manifest = _manifest_of(record)
    for dtype in DTYPES:  # part of the identity, and not in the record
        sae = _loaded(manifest, record, dtype)
        if sae.spec.sae_id == record.get("sae_id"):
            break
    else:
        raise UsageError(
            f"the SAE has other weights now than those the vector was fitted with ({str(record.get('sae_id'))[:SHORT_ID]})",
            place=str(record.get("name")),
            hint="put the SAE back that the vector was fitted with, or fit again",
        )
    sae.spec = replace(sae.spec, **{k: record[k] for k in ("name", "source") if k in record})  # as it was called
    return sae


def _loaded(manifest: SaeManifest, record: Mapping[str, Any], dtype: str) -> LoadedSae:
    try:
        return load_sae(manifest, dtype=dtype)
    except NotFoundError as error:
        raise NotFoundError(
            f"the SAE {record.get('name')!r} is not where the vector was fitted from it: {error.message}",
            place=error.place,
            hint="put it back, or fit again from where it is now: the same SAE gives the same vector",
        ) from error


def _manifest_of(record: Mapping[str, Any]) -> SaeManifest:
    """A manifest of the folder, release or shipped SAE that was loaded. Provenance is free JSON and may hold anything."""
    source = record.get("source")
    known = source if isinstance(source, Mapping) else {}
    more = {"format": known["format"]} if known.get("format") else {}
    if "zoo" in known:
        place = {"type": "zoo", "name": known["zoo"]}
    elif "folder" in known:
        place = {"type": "folder", "folder": known["folder"], **more}
    else:
        place = {"type": "release", "release": known.get("release"), "sae": known.get("sae_id"), **more}
        place["revision"] = known.get("revision") or "main"
    document = {"kind": "sae", "version": 1, "name": "recorded", "source": place, "model": known.get("model")}
    try:
        return SaeManifest.model_validate_json(json.dumps(document))
    except (ValidationError, ValueError, TypeError) as error:
        raise UsageError(
            "the vector does not say where its SAE came from",
            place=str(record.get("name")),
            hint="fit again with the SAE at hand",
        ) from error


def recorded_saes(vector: SteeringVector, *, load: Load = load_recorded) -> Iterator[Encodes]:
    """The SAEs of a vector's layers, loaded again one by one; UsageError for a vector of no SAE. Raises as `load_recorded`."""
    return (load(record) for record in sae_records(vector).values())


def sae_records(vector: SteeringVector) -> dict[int, dict[str, Any]]:
    """What a vector says of its SAEs, by layer: what they are, and where they were when it was fitted.

    Vectors of earlier versions say both in one place.

    Raises:
        UsageError: it was not made from SAEs, or says something else of them. Provenance is free JSON and may hold anything.
    """
    saes, located = vector.provenance.get("saes"), vector.provenance.get(LOCATED)
    if vector.method != METHOD or not isinstance(saes, Mapping):
        raise UsageError(f"{vector.name!r} was made by {vector.method!r}, not from features of an SAE")
    if not all(layer.isdecimal() and len(layer) < 10 and isinstance(one, Mapping) for layer, one in saes.items()):
        raise UsageError(f"{vector.name!r} does not say which SAEs it is from", hint="fit again with the SAEs at hand")
    places = located.get("saes") if isinstance(located, Mapping) else None
    found = {}
    for layer, known in sorted(saes.items(), key=lambda item: int(item[0])):
        place = places.get(layer) if isinstance(places, Mapping) else None
        found[int(layer)] = {**(place if isinstance(place, Mapping) else {}), **known}
    return found


def verification_of(vector: SteeringVector) -> Verification:
    """The verification that a vector's provenance holds: its verdicts are read from it, and nobody is asked again."""
    made = vector.provenance
    facts = dict(made.get("verification") or {})
    by = facts.pop("by", None)
    places = made.get(LOCATED)
    located = places.get("verification") if isinstance(places, Mapping) else None
    if by not in ("judge", "sheet", "unverified"):
        raise UsageError(f"{vector.name!r} does not say who verified its features")
    verdicts = []
    for layer, columns in made["features"].items():
        for at, feature in enumerate(columns["feature"]):
            answer = columns["verdict"][at]
            if columns["judge"][at] is not None:
                verdicts.append(
                    Verdict(
                        layer=int(layer),
                        feature=int(feature),
                        answer=next((a for a in ANSWERS if a == answer), None),
                        by=columns["judge"][at],
                        digest=columns["verdict_digest"][at],
                        prompt_version=columns["prompt_version"][at],
                        explanation=columns["explanation"][at],
                        problem=None if answer else _problem(columns["reason"][at]),
                    )
                )
    return Verification(
        by=by, verdicts=tuple(verdicts), facts=facts, located=located if isinstance(located, Mapping) else {}
    )


def refit(vector: SteeringVector, session: SelectsRows, *, load: Load = load_recorded) -> SteeringVector:
    """Fit an SAE vector again from its provenance: rows, SAEs, selection and verdicts; the same bytes where nothing changed.

    Raises:
        UsageError: it is no vector of an SAE, its rows or SAEs are others, or its features are not picked any more.
    """
    saes = recorded_saes(vector, load=load)
    sel = rows_of(vector, session)
    params = vector.provenance["params"]
    found = find_candidates(sel, saes, selection=params["selection"])
    only = None if params.get("feature") is None else (vector.layers[0], int(params["feature"]))
    return vector_of(
        sel,
        found,
        selection=params["selection"],
        verification=verification_of(vector),
        name=vector.name,
        only=only,
    )


def _problem(reason: str) -> str:
    return reason.partition("; no verdict: ")[2] or "no verdict"
