"""Vectors to other tools and from them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Literal, get_args

from steercache.api.fitting import FitRequest, run_of_request, selected_rows
from steercache.cache.vector_schema import vector_schema_text as vector_schema_text
from steercache.core.errors import UsageError
from steercache.core.trials import AlphaUnit, Target
from steercache.core.vector_use import PLACES, OperationName, Phase, VectorUse
from steercache.core.vectors import FittedOn, SteeringVector
from steercache.exchange.vectors import exporting
from steercache.exchange.vectors.exporting import ExportedVector as ExportedVector
from steercache.exchange.vectors.formats import FORMATS
from steercache.exchange.vectors.formats import VectorFormat as VectorFormat
from steercache.exchange.vectors.held import Norm as Norm
from steercache.exchange.vectors.importing import ImportedVector as ImportedVector
from steercache.exchange.vectors.importing import ImportTerms as ImportTerms
from steercache.exchange.vectors.importing import import_vector, read_held
from steercache.exchange.vectors.offset import OffsetCheck, find_offset
from steercache.fit.shift import mean_shift
from steercache.queries.session import Session
from steercache.queries.token_clause import canonical_target

WRITTEN: tuple[str, ...] = tuple(name for name, row in FORMATS.items() if row.consumer is not None)
READ: tuple[str, ...] = get_args(VectorFormat)


@dataclass(frozen=True, slots=True, kw_only=True)
class UseChange:
    """What an export states in the place of a vector's own use; None leaves that."""

    operation: OperationName | None = None
    strength: float | None = None
    strength_unit: AlphaUnit | None = None
    target: Target | str | None = None
    n_generated: int | None = None
    phase: Phase | None = None
    skip_first: bool | None = None


def changed_use(vector: SteeringVector, change: UseChange) -> VectorUse | None:
    """The vector's use with what is stated; None where it has none and nothing is stated. Raises UsageError, QueryError."""
    stated = {name: value for name in change.__slots__ if (value := getattr(change, name)) is not None}
    if not stated:
        return None
    place = vector.site if vector.site in PLACES else "resid_post"
    base = vector.use or VectorUse(place=place, phase="both")
    if "strength" in stated and "strength_unit" not in stated:
        stated["strength_unit"] = "raw"
    if "target" in stated:
        stated["target"] = canonical_target(stated["target"])
    try:
        return vector.prompted(replace(base, **stated))
    except ValueError as error:
        raise UsageError(str(error)) from error


def export_vector(
    vector: SteeringVector,
    path: str | PathLike[str],
    *,
    to: str | None = None,
    use: VectorUse | None = None,
    layers: Sequence[int] | Literal["all"] | None = None,
    scaled: bool = False,
    blocks: str | None = None,
    overwrite: bool = False,
) -> ExportedVector:
    """Write a vector for another tool: gguf (llama.cpp), easysteer (repeng reads it too), steering-vectors, lm-eval, saklas,
    vllm-lens, pytorch (a script that needs only transformers), npz, safetensors.

    `to` is the format, by the file's name where that says it. `use` stands in for the vector's own, `layers` for the use's.
    `scaled` multiplies the values by the recommended strength, for files that hold none. `blocks` is the path of the decoder
    blocks below `model.base_model` (lm-eval, pytorch; default: layers).

    Raises:
        UsageError: the format cannot express the vector (operation, tokens, phase, site, layer), with every reason; or the
            file is there.
    """
    return exporting.export_vector(
        vector, Path(path), to=to, use=use, layers=layers, scaled=scaled, blocks=blocks, overwrite=overwrite
    )


def take_in(
    session: Session,
    path: Path,
    *,
    source: str | None = None,
    terms: ImportTerms,
    run: str | None = None,
    query: str | None = None,
    check_layer_offset: bool = False,
) -> tuple[ImportedVector, OffsetCheck | None]:
    """Read a file, find its layer offset where that is asked for, save the vector; see `Cache.import_vector`."""
    run_id = None if run is None else session.cache.resolve_run(run)
    if run_id is not None:
        terms = replace(terms, fitted_on=_model_of(session, run_id))
    check = None
    if check_layer_offset:
        held = read_held(path, source=source, layers=terms.layers)
        request = FitRequest(concept=terms.concept, run=run, query=query)
        sel = selected_rows(session, request, run=run_of_request(session, request), concept=terms.concept)
        check = find_offset(held.values, mean_shift(sel))
        stated = terms.layer_offset
        if check.offset is None and stated is None:
            raise UsageError(
                f"the layer offset {check.why}", place=str(path), hint="give it, from where the file was made"
            )
        if check.offset is not None and stated is not None and check.offset != stated:
            raise UsageError(
                f"the layer offset {stated:+d} is stated, and {check.why}",
                place=str(path),
                hint="leave one of the two out",
            )
        terms = replace(terms, layer_offset=stated if check.offset is None else check.offset)
    taken = import_vector(path, source=source, terms=terms)
    if run_id is not None:
        _refuse_other_model(session, run_id, taken.vector, path)
    session.save(taken.vector)
    return taken, check


def _model_of(session: Session, run_id: str) -> FittedOn:
    return session.cache.source(run_id).fitted_on


def _refuse_other_model(session: Session, run_id: str, vector: SteeringVector, path: Path) -> None:
    """Raises UsageError for a vector that the model of a run has no place for."""
    model = session.cache.run_document(run_id).model
    beyond = [layer for layer in vector.layers if layer >= model.n_layers]
    if vector.hidden_size != model.hidden_size or beyond:
        what = f"{vector.hidden_size} wide and has layers up to {max(vector.layers)}"
        raise UsageError(
            f"the vector is {what}; {model.name} is {model.hidden_size} wide and has layers 0 to {model.n_layers - 1}",
            place=str(path),
        )
