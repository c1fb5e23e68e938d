"""Text with and without a vector, side by side."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from steercache.answers.store import stored_answers
from steercache.cache.handle import CacheFolder as CacheFolder
from steercache.cache.sweeps import save_sweep
from steercache.cache.vectors import load_vector
from steercache.cells.vector_model import load_model_of, model_without_weights_of
from steercache.core.activity import announce
from steercache.core.operations import Operation, operation_text, read_operation
from steercache.core.trials import AlphaUnit
from steercache.core.vectors import SteeringVector
from steercache.index.clause import is_clause
from steercache.models.ends import answer_identity
from steercache.models.spec import LoadedModel
from steercache.queries.token_clause import read_token_clause
from steercache.steering.generate import SideBySide, SteeringSetting, generate_side_by_side
from steercache.steering.targets import TargetLike
from steercache.steering.texts_kept import kept_texts, text_answers, text_cells
from steercache.steering.token_rule import When


def generate(
    model: LoadedModel,
    vector: SteeringVector,
    prompts: str | Sequence[str],
    *,
    layer: int,
    alphas: Sequence[float] = (1.0,),
    alpha_unit: AlphaUnit = "raw",
    operation: Operation | str = "add",
    target: TargetLike = "all",
    when: When = "prefill",
    skip_first: bool = False,
    n_generated: int | None = None,
    max_new_tokens: int = 20,
    chat: bool = False,
) -> list[SideBySide]:
    """Continue every prompt greedily without the vector (alpha 0) and at every strength of `alphas`.

    `target` names the steered tokens ("image", "text", "both", "all", "last", SQL such as "sql: word = 'not'", or a bool mask
    of shape (b, t)), `when` whether only the prompt ("prefill"), only generated tokens ("generated") or both ("every");
    `n_generated` ends with the n-th generated token. `skip_first` leaves the first token, the attention
    sink, alone; `chat` puts each prompt into the model's chat template. `alpha_unit` is the unit of alpha: "raw" multiplies
    the vector; "resid_norm" scales it to alpha times the median norm of the rows that it was fitted on, which
    `fit.diagnose` measures. `operation` is what is done with the vector, as in `steer`. `max_new_tokens` counts the tokens
    of a continuation. Returns one result per prompt, with the strengths in the order given, 0 first.

    Raises:
        UsageError: a layer the model does not have, a vector of another width, or a target that matches no token.
    """
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    settings = _settings(
        alphas,
        layer=layer,
        alpha_unit=alpha_unit,
        operation=operation,
        target=target,
        when=when,
        skip_first=skip_first,
        n_generated=n_generated,
    )
    return generate_side_by_side(model, vector, texts, settings=settings, max_new_tokens=max_new_tokens, chat=chat)


def _settings(
    alphas: Sequence[float],
    *,
    layer: int,
    alpha_unit: AlphaUnit,
    operation: Operation | str,
    target: TargetLike,
    when: When,
    skip_first: bool,
    n_generated: int | None,
) -> tuple[SteeringSetting, ...]:
    """The unsteered text first, then every strength."""
    done = operation_text(read_operation(operation))
    return tuple(
        SteeringSetting(
            layer=layer,
            alpha=float(alpha),
            alpha_unit=alpha_unit,
            target=target,
            when=when,
            skip_first=skip_first,
            operation=done,
            n_generated=n_generated,
        )
        for alpha in dict.fromkeys((0.0, *alphas))
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPlan:
    """Which texts are written: continuations of `prompts` under every one of `settings`."""

    prompts: tuple[str, ...]
    settings: tuple[SteeringSetting, ...]
    max_new_tokens: int
    chat: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenTexts:
    """Texts side by side; `from_cache` where all of them had been written before."""

    texts: list[SideBySide]
    from_cache: bool


def text_plan(
    prompts: str | Sequence[str],
    *,
    layer: int,
    alphas: Sequence[float],
    alpha_unit: AlphaUnit,
    target: TargetLike,
    operation: Operation | str = "add",
    when: When,
    skip_first: bool,
    n_generated: int | None = None,
    max_new_tokens: int,
    chat: bool,
) -> TextPlan:
    """The unsteered text first, then every strength."""
    settings = _settings(
        alphas,
        layer=layer,
        alpha_unit=alpha_unit,
        operation=operation,
        target=target,
        when=when,
        skip_first=skip_first,
        n_generated=n_generated,
    )
    texts = (prompts,) if isinstance(prompts, str) else tuple(prompts)
    return TextPlan(prompts=texts, settings=settings, max_new_tokens=max_new_tokens, chat=chat)


def _with_vectors(cache: CacheFolder, plan: TextPlan) -> TextPlan:
    """The plan with the vectors of the cache that targets written as SQL name. Raises QueryError, NotFoundError."""
    settings = tuple(
        replace(one, target=read_token_clause(one.target, partial(load_vector, cache)))
        if isinstance(one.target, str) and is_clause(one.target)
        else one
        for one in plan.settings
    )
    return replace(plan, settings=settings)


def write_texts(
    cache: CacheFolder,
    vector: SteeringVector,
    plan: TextPlan,
    *,
    model: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    allow_foreign: bool = False,
) -> WrittenTexts:
    """Texts of a stored vector, read from the cache if they are there; new ones are stored as answers of a sweep.

    Raises:
        UsageError: as `generate`; or the model has other weights than the vector was fitted on, and that is not allowed.
    """
    plan = _with_vectors(cache, plan)
    light = model_without_weights_of(cache, vector, model, dtype=dtype, allow_foreign=allow_foreign)
    cells = text_cells(
        light, vector, plan.prompts, settings=plan.settings, max_new_tokens=plan.max_new_tokens, chat=plan.chat
    )

    def stored(cell_ids: Sequence[str]) -> dict[tuple[str, str], str]:
        return {key: one.raw for key, one in stored_answers(cache, cell_ids).items() if one.raw is not None}

    kept = kept_texts(light, plan.prompts, cells, stored=stored, chat=plan.chat)
    if kept is not None:
        return WrittenTexts(texts=kept, from_cache=True)
    loaded = load_model_of(cache, vector, model, device=device, dtype=dtype, allow_foreign=allow_foreign)
    announce(f"writing {len(plan.prompts) * len(plan.settings)} texts")
    texts = generate_side_by_side(
        loaded, vector, plan.prompts, settings=plan.settings, max_new_tokens=plan.max_new_tokens, chat=plan.chat
    )
    manifest = {
        "kind": "steer",
        "model": answer_identity(loaded),
        "vector": vector.vector_id,
        "prompts": list(plan.prompts),
        "cells": [cell.cell_id for cell in cells],
    }
    with suppress(OSError):  # a cache that cannot be written shows its texts all the same
        answers = text_answers(light, texts, cells, chat=plan.chat)
        save_sweep(cache, f"steer-{vector.name}", manifest=manifest, cells=cells, answers=answers)
    return WrittenTexts(texts=texts, from_cache=False)
