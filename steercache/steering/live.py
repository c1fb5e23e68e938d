"""Steering a model while it runs: hooks on its blocks, put there by a context manager and always taken away again."""

import operator
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from steercache.core.errors import NotFoundError, UsageError
from steercache.core.operations import Operation, read_operation
from steercache.core.trials import AlphaUnit
from steercache.core.vector_use import PlaceName
from steercache.core.vectors import SteeringVector
from steercache.index.clause import is_clause
from steercache.models.spec import LoadedModel
from steercache.queries.token_clause import read_token_clause
from steercache.steering.clause_masks import PlannedTarget, clause_of, layers_of
from steercache.steering.foreign import warn_if_foreign
from steercache.steering.live_hooks import PlacedChange, applied
from steercache.steering.operations.change import change_of
from steercache.steering.parts import ModelParts, parts_of
from steercache.steering.places import check_place, check_site, find_place, place_of_site, width_of_place
from steercache.steering.targets import TARGETS, TargetLike
from steercache.steering.token_rule import TokenRule, When


@contextmanager
def steer(
    model: Any,
    vector: SteeringVector | Sequence[SteeringVector],
    *,
    layer: int | Sequence[int],
    alpha: float,
    operation: Operation | str = "add",
    target: TargetLike = "all",
    when: When = "prefill",
    alpha_unit: AlphaUnit = "raw",
    skip_first: bool = False,
    n_generated: int | None = None,
    place: str | None = None,
    tokenizer: Any = None,
) -> Iterator[Any]:
    """Add alpha times `vector` to the output of block `layer` at the target tokens, for as long as the context is open.

    `operation` does something else than to add: a value of `core.operations` or its text, such as "project_out" or
    "clamp:value=2"; several vectors are then the subspace that they span. Strength 0 is the model itself in all of them.

    `alpha_unit` is the unit of alpha: "raw" multiplies the vector; "resid_norm" gives it the length of alpha median
    norms of the rows that it was fitted on, which `fit.diagnose` measures. `layer` may name several blocks; each gets its own
    direction. Contexts nest: what the outer one added stays. "prefill" steers the prompt only, "generated" the generated tokens
    only, "every" both; `n_generated` ends with the n-th generated token. `skip_first` leaves out the first token, the attention
    sink.

    `target` is "image", "video", "audio", "text", "both", "all" or "last", a bool mask of shape (b, t) over the prompt's
    tokens, a function from token ids (b, t) to such a mask, or SQL: "sql: kind = 'image' and from_end < 40". Of a pass of your
    own SQL knows what token ids say; `plan_target` knows pictures and texts too. "text" and "both" leave special tokens out. A
    plain transformers model does not know which tokens are special, so these two need its `tokenizer`. Yields the
    model. (More parameters than house style allows: the call reads as one sentence.)

    `place` is where in the block: "resid_post", its output; "resid_pre", its input; "attn_out" and "mlp_out", what attention
    and MLP add; "head_out", the outputs of the attention heads side by side, before their output projection. By default a
    vector of `head_out` is applied there and any other at the output.

    A forward pass of one token behind a key/value cache is taken for a generated one. So a prompt that `generate` reads in
    chunks (`prefill_chunk_size`) is followed with the target all only, and only if its last chunk has several tokens; without a
    cache, a prompt that is the one before and one token more is taken for a step of generation: open a context for each.

    Warns (`ForeignVectorWarning`) of a vector that was fitted on other weights than the model's or its backbone's, where both
    are known: the vector comes from a cache, and the model is a LoadedModel or was loaded from a local folder.

    Raises:
        UsageError: no vector, an unknown layer, target, unit or time, a vector of another width or site, an alpha that is not
            finite, a plain model without its tokenizer where that is wanted; and during a forward pass when the target hits
            nothing of a prompt.
        NotFoundError: the model's type is not in the table of families and cannot be derived and proven (`models.recognise`).
    """
    rule = TokenRule(target=resolved(target, vector), when=when, skip_first=skip_first, n_generated=n_generated)
    parts, changes = checked(
        model,
        vector,
        Strength(layer=layer, alpha=alpha, unit=alpha_unit, operation=operation, place=place),
        rule,
        tokenizer=tokenizer,
    )
    for one in several(vector):
        warn_if_foreign(model, one, stacklevel=4)  # the `with` statement, through contextlib
    if not changes:
        yield parts.model  # nothing to do: the model itself, bit for bit
        return
    with applied(parts, changes, rule):
        yield parts.model


@dataclass(frozen=True, slots=True, kw_only=True)
class Strength:
    """Where and how strongly: blocks, alpha in its unit, and what is done with it."""

    layer: int | Sequence[int]
    alpha: float
    unit: AlphaUnit = "raw"
    operation: Operation | str = "add"
    place: str | None = None


def several(vector: Any) -> list[SteeringVector]:
    """One vector, or those of a subspace. Raises UsageError for anything else."""
    found = list(vector) if isinstance(vector, list | tuple) else [vector]
    for one in found:
        if not isinstance(one, SteeringVector):
            raise UsageError(
                f"expected a SteeringVector, not {one!r:.60}",
                hint="cache.vector(NAME) gives one, steercache.fit makes one",
            )
    return found


def resolved(target: TargetLike, vector: Any) -> TargetLike:
    """SQL as what it means, read once; the vectors that it names are those that steer, by name or id."""
    if not (isinstance(target, str) and is_clause(target)):
        return target
    known = {name: one for one in several(vector) for name in (one.name, one.vector_id)}

    def find(name: str) -> SteeringVector:
        if name not in known:
            raise NotFoundError(
                f"the target names the vector {name!r}, which is not the one that steers",
                hint="read the target with the cache that has the vector: cache.target(...)",
            )
        return known[name]

    return read_token_clause(target, find)


def checked(
    model: Any, vector: Any, strength: Strength, rule: "TokenRule", *, tokenizer: Any
) -> tuple[ModelParts, dict[int, PlacedChange]]:
    """A model's parts, and what is done at each layer; nothing where that moves nothing. Raises as `steer`, before any pass."""
    vectors, operation = several(vector), read_operation(strength.operation)
    clause = clause_of(rule.target)
    by_kind = rule.target in ("text", "both") or (
        clause is not None and "kind" in clause.clause.words and not isinstance(rule.target, PlannedTarget)
    )
    if by_kind and tokenizer is None and not isinstance(model, LoadedModel):
        raise UsageError(
            f"the target {clause or rule.target} leaves special tokens out, and a plain model does not know which those are",
            hint="steer(..., tokenizer=tokenizer)",
        )
    parts = parts_of(model, tokenizer=tokenizer)
    changes = {
        one: change_of(vectors, one, alpha=strength.alpha, alpha_unit=strength.unit, operation=operation)
        for one in _layers(strength.layer)
    }
    place = check_place(strength.place or place_of_site(vectors[0].site))
    width = width_of_place(parts.model, place)
    for one in vectors:
        _check(parts, one, layers=tuple(changes), rule=rule, place=place, width=width)
    _check_clause(rule, layers=tuple(changes), place=place)
    if not any(one.moves for one in changes.values()):
        return parts, {}
    placed = {
        layer: PlacedChange(
            place=find_place(parts.model, parts.family, parts.blocks[layer], place=place, layer=layer), what=change
        )
        for layer, change in changes.items()
    }
    return parts, placed


def _layers(layer: int | Sequence[int]) -> tuple[int, ...]:
    try:
        return (operator.index(layer),)  # type: ignore[arg-type]
    except TypeError:
        pass
    if isinstance(layer, np.ndarray):
        layer = layer.ravel().tolist()
    if isinstance(layer, Sequence) and layer and all(hasattr(one, "__index__") for one in layer):
        return tuple(dict.fromkeys(operator.index(one) for one in layer))
    raise UsageError(f"layer must be a block's number or several, not {layer!r}")


def _check(
    parts: ModelParts,
    vector: SteeringVector,
    *,
    layers: tuple[int, ...],
    rule: TokenRule,
    place: PlaceName,
    width: int,
) -> None:
    target, when = rule.target, rule.when
    n_layers = len(parts.blocks)
    for one in layers:
        if not 0 <= one < n_layers:
            raise UsageError(f"the model has no layer {one}", hint=f"its blocks are 0 to {n_layers - 1}")
    if vector.hidden_size != width:
        raise UsageError(
            f"the vector {vector.name!r} is {vector.hidden_size} wide and the model {width}",
            hint="fit it on a run of this model or of its backbone",
        )
    check_site(vector, place)
    if when not in get_args(When):
        raise UsageError(f"no time named {when!r}", hint="choose prefill, generated or every")
    if rule.n_generated is not None and rule.n_generated < 1:
        raise UsageError(f"the first {rule.n_generated} generated tokens", hint='at least 1, or when="prefill"')
    if clause_of(target) is not None:
        return
    if isinstance(target, str):
        if target not in TARGETS:
            raise UsageError(f"no target named {target!r}", hint=f"choose one of: {', '.join(TARGETS)}, or SQL")
    elif when != "prefill" and not callable(target):
        raise UsageError(
            "a mask names tokens of the prompt only", hint=f'give a callable for when="{when}", or when="prefill"'
        )


def _check_clause(rule: TokenRule, *, layers: tuple[int, ...], place: PlaceName) -> None:
    """Refuse SQL that cannot be decided while the model runs."""
    clause = clause_of(rule.target)
    if clause is None:
        return
    if rule.when != "prefill" and not clause.clause.alone:
        raise UsageError(
            "a target that looks at other tokens or at activations is about the prompt",
            place=str(clause),
            hint='when="prefill", or a condition on each token by itself',
        )
    known_before = min(layers) if place == "resid_post" else min(layers) - 1  # inside block l its output is yet to come
    late = [one for one in layers_of(rule.target) if one > known_before]
    if late:
        raise UsageError(
            f"the target looks at layer {late[0]}, which a pass reaches after {place} of layer {min(layers)}, which is steered",
            place=str(clause),
            hint="plan the target first: steercache.plan_target(model, target, prompts) runs the model unsteered",
        )
