"""Whether a format can express a vector's use, and the directions and strengths that it is written with."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from steercache.core.errors import UsageError
from steercache.core.vector_use import OperationName, Phase, VectorUse
from steercache.core.vectors import SteeringVector

ScaleField = Literal["none", "one", "each"]  # strengths that a file has: none, one for all layers, one per layer
_WORDS: Final = {
    "prompt": "the prompt only",
    "generated": "generated tokens only",
    "both": "prompt and generated tokens",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Consumer:
    """What the reader of a format does with it: a vector that is meant for anything else is refused."""

    name: str
    scale: ScaleField
    operations: tuple[OperationName, ...] = ("add",)
    phases: tuple[Phase, ...] = ("both",)
    sites: tuple[str, ...] = ("resid_post",)
    first_layer: int = 0
    why_first_layer: str = ""
    keeps_all: bool = False  # an archive of numbers: nothing is steered by reading it, so every use and layer goes in


@dataclass(frozen=True, slots=True, kw_only=True)
class Expressed:
    """What is written: `directions` by block, each with the multiple that makes it the recommended strength, None where
    nobody recommended one. `use` is what the consumer will do."""

    vector: SteeringVector
    directions: dict[int, npt.NDArray[np.float32]]
    multiples: dict[int, float] | None
    use: VectorUse
    notes: tuple[str, ...] = ()

    def one_multiple(self, consumer: Consumer) -> float | None:
        """The multiple that all layers share. Raises UsageError where they differ."""
        found = sorted(set((self.multiples or {}).values()))
        if len(found) > 1:
            raise UsageError(
                f"{self.vector.name!r} has another strength at every layer ({found[0]:g} to {found[-1]:g} times its values), "
                f"and {consumer.name} has one for all",
                hint="write the values multiplied by the strength (scaled), or name one layer",
            )
        return found[0] if found else None


def express(
    vector: SteeringVector,
    consumer: Consumer,
    *,
    use: VectorUse | None = None,
    layers: Sequence[int] | Literal["all"] | None = None,
    scaled: bool = False,
) -> Expressed:
    """Resolve a vector's use for one consumer; `use` and `layers` stand in for the vector's own.

    `scaled` multiplies the values by the recommended strength, where the file is to hold that.

    Raises:
        UsageError: the consumer does something else than the use says, with every reason; which layers is not known; a
            strength that cannot be counted in multiples of the vector.
    """
    meant = use or vector.use
    given = meant or VectorUse(
        phase=consumer.phases[0], place=vector.site if vector.site in consumer.sites else "resid_post"
    )
    chosen = _layers(vector, given, layers, consumer)
    reasons = [] if consumer.keeps_all else _reasons(vector, given, chosen, consumer)
    if reasons:
        raise UsageError(
            f"{consumer.name} cannot express {vector.name!r}: " + "; ".join(reasons),
            hint="choose another format, or state the other use yourself and the numbers go out for that",
        )
    multiples = _multiples(vector, given, chosen)
    directions = {layer: vector.at(layer) for layer in chosen}
    notes = []
    if meant is None and not consumer.keeps_all:
        notes.append(f"{vector.name!r} does not say how it is meant to be used; {consumer.name} does this: {given}")
    if scaled:
        if multiples is None:
            raise UsageError(
                f"{vector.name!r} has no recommended strength to multiply its values by", hint="give a strength"
            )
        directions = {layer: np.float32(multiples[layer]) * one for layer, one in directions.items()}
        multiples = dict.fromkeys(directions, 1.0)
        notes.append("the values are multiplied by the strength: read back, it is another vector")
    if not all(np.isfinite(one).all() for one in directions.values()):
        raise UsageError(f"{vector.name!r} has values that are not finite, or overflow float32 at this strength")
    whole = replace(given, layers=tuple(chosen))
    return Expressed(vector=vector, directions=directions, multiples=multiples, use=whole, notes=tuple(notes))


def _layers(
    vector: SteeringVector, use: VectorUse, layers: Sequence[int] | Literal["all"] | None, consumer: Consumer
) -> list[int]:
    if layers == "all" or (layers is None and consumer.keeps_all):
        return list(vector.layers)
    chosen = list(use.layers or ()) if layers is None else [int(one) for one in layers]
    if not chosen and len(vector.layers) == 1:
        return list(vector.layers)
    if not chosen:
        raise UsageError(
            f"{vector.name!r} has {len(vector.layers)} layers and does not say which are steered; "
            f"{consumer.name} would steer all of them at once",
            hint="name the layers, or all",
        )
    unknown = sorted(set(chosen) - set(vector.layers))
    if unknown:
        raise UsageError(
            f"the vector {vector.name!r} has no layer {', '.join(map(str, unknown))}",
            hint=f"it has: {', '.join(map(str, vector.layers))}",
        )
    return list(dict.fromkeys(chosen))


def _reasons(vector: SteeringVector, use: VectorUse, layers: list[int], consumer: Consumer) -> list[str]:
    """Why a consumer cannot do what the use says."""
    reasons = []
    if use.operation not in consumer.operations:
        reasons.append(f"its operation is {use.operation}, and the format knows {', '.join(consumer.operations)}")
    if use.operation == "project_out" and use.strength not in (None, 1):
        reasons.append(f"it projects out by {use.strength:g}, and the format removes the whole component")
    if use.place not in consumer.sites or vector.site not in (*consumer.sites, use.place):
        where = use.place if use.place not in consumer.sites else vector.site
        reasons.append(f"it belongs at {where}, and the format steers at {', '.join(consumer.sites)}")
    if use.target != "all" or use.skip_first:
        what = f"tokens where {use.target}" if use.target.startswith("sql: ") else f"{use.target} tokens"
        what += " but the first" if use.skip_first else ""
        reasons.append(f"it is meant for {what}, and the format steers every token")
    if use.phase not in consumer.phases:
        does = " or ".join(_WORDS[phase] for phase in consumer.phases)
        reasons.append(f"it is meant for {_WORDS[use.phase]}, and the format steers {does}")
    if use.n_generated is not None:
        reasons.append(
            f"it is meant for the first {use.n_generated} generated tokens, and the format steers all of them"
        )
    too_early = [layer for layer in layers if layer < consumer.first_layer]
    if too_early:
        reasons.append(f"layer {', '.join(map(str, too_early))}: {consumer.why_first_layer}")
    return reasons


def _multiples(vector: SteeringVector, use: VectorUse, layers: list[int]) -> dict[int, float] | None:
    """The recommended strength as multiples of the vector's own values."""
    if use.strength is None or use.operation not in ("add", "add_preserving_norm", "replace"):
        return None
    if use.strength_unit == "raw":
        return dict.fromkeys(layers, float(use.strength))
    if use.strength_unit == "kl":
        raise UsageError(
            f"the strength of {vector.name!r} is a KL on unrelated prompts, which a file cannot know",
            hint="give the strength in raw units",
        )
    if use.strength_unit == "target_norm":
        raise UsageError(
            f"the strength of {vector.name!r} counts in norms of the rows that are steered, which a file cannot know",
            hint="give the strength in raw units",
        )
    norms: dict[Any, Any] = {d.get("layer"): d.get("resid_norm") for d in vector.diagnostics}
    lengths = dict(zip(vector.layers, map(float, vector.norms), strict=True))
    missing = [layer for layer in layers if norms.get(layer) is None or lengths[layer] == 0]
    if missing:
        raise UsageError(
            f"the strength of {vector.name!r} counts in row norms, which it does not say for layer {missing[0]}",
            hint="fit.diagnose(selection, vector) measures them; or give the strength in raw units",
        )
    return {layer: float(use.strength) * float(norms[layer]) / lengths[layer] for layer in layers}
