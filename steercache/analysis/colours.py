"""The colour experiment of arXiv 2505.14071: a colour's vector on the image tokens, and the probabilities of colour words.

Questions ask for the colour of a thing in a drawn picture; the right answer is another colour than the vector's. The first
token of the answer is scored, word by word, for the vector and for random directions of equal norm, and every number is kept as
a trial. Only the search split is used, so choosing a strength here does not use the test split.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

import numpy as np

from steercache.answers.row_norms import row_norms_of
from steercache.answers.store import stored_scores
from steercache.benchmarks.task import EncodedQuestion, Progress, ask, pick_rows
from steercache.cache.sweeps import save_sweep, sweep_id_of
from steercache.cells.options import EvalOptions, GridAxes
from steercache.cells.vectors import check_vector
from steercache.core.errors import UsageError
from steercache.core.ids import digest
from steercache.core.trials import AlphaUnit, Target
from steercache.core.vectors import SteeringVector
from steercache.data.benchmarks.questions import Benchmark
from steercache.data.scenes import COLOURS
from steercache.models.ends import answer_identity
from steercache.models.spec import LoadedModel
from steercache.queries.session import Session
from steercache.steering.add import delta_of
from steercache.steering.effect_inputs import sample_inputs
from steercache.steering.effects import Masses, WordMass, WordMassPlan, word_mass_effect
from steercache.steering.effects_kept import kept_word_mass
from steercache.steering.mass_curves import MassAtAlpha, rank_of_best, summarise_mass

SPLIT: Final = "search"
AUTO = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0)  # strengths, in lengths of a median target row
LOST = 0.5  # the answer has broken down where less than so much of the words' unsteered probability is left


@dataclass(frozen=True, slots=True, kw_only=True)
class ColourOptions:
    """What is measured. `word` is the vector's colour (None: its concept); `n` questions at most, the whole split for None.

    Without `alphas`, from a fiftieth to four times the length of a median target row. `open_question` asks without choices.
    """

    layer: int
    alphas: tuple[float, ...] = ()
    target: Target = "image"
    alpha_unit: AlphaUnit = "raw"
    word: str | None = None
    words: tuple[str, ...] = COLOURS
    n: int | None = 48
    n_random: int = 20
    open_question: bool = False
    tokens_per_batch: int = 4096
    memory_mib: int = 1024
    seed: int = 0
    allow_foreign: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ColourPoint:
    """One strength: mean probability of each word, of the vector's word (`named`), of the right one, and of any of them."""

    alpha: float
    words: Mapping[str, float]
    named: MassAtAlpha
    right: MassAtAlpha
    any_word: MassAtAlpha


@dataclass(frozen=True, slots=True, kw_only=True)
class ColourEffect:
    """The curves, and what has to be known beside them.

    At alpha 1 the vector is `unit_share` of the median length of the rows it is added to. `p_best` ranks the highest point of
    the vector's curve among those of the random directions, each at its own best strength. `breaks_at` is the smallest strength
    at which the colour words together keep less than half of their unsteered probability, `random_breaks_at` the same for the
    random directions' mean; None where no strength tried does it. `named_lost_at` is another fact: the smallest strength beyond
    the vector's peak at which its own word is less probable than unsteered, whatever the other words keep (None: none tried).
    `n_computed` answers were computed now, the others read. Flat, as the JSON of `report colours`.
    """

    sweep_id: str
    model: str
    benchmark: str
    vector: str
    lineage: str
    word: str
    layer: int
    target: str
    alpha_unit: AlphaUnit
    n: int
    n_random: int
    unit_share: float
    points: tuple[ColourPoint, ...]
    p_best: float | None
    breaks_at: float | None
    random_breaks_at: float | None
    named_lost_at: float | None
    left_out: tuple[str, ...]
    n_computed: int
    failures: tuple[str, ...]
    effect: WordMass = field(repr=False)


def colour_effect(
    session: Session,
    loaded: LoadedModel,
    vector: SteeringVector,
    benchmark: Benchmark,
    options: ColourOptions,
    *,
    load: Callable[[], LoadedModel] | None = None,
    progress: Progress | None = None,
) -> ColourEffect:
    """Run the experiment and keep it as a sweep; the random directions are saved as vectors. What an earlier run kept is read.

    With `load`, `loaded` needs no weights: it is called where something has to be computed.

    Raises:
        UsageError: a text model, a vector that does not fit, a word of several tokens, no question that can be answered.
    """
    if loaded.family.modality != "image":
        raise UsageError(f"{loaded.spec.name} reads no pictures", hint="a multimodal model, such as tiny or demo")
    word = options.word or vector.concept or ""
    if word not in options.words:
        raise UsageError(
            f"{vector.name!r} has the concept {word or 'none'}, which is not a colour word here", hint=_HINT
        )
    axes = GridAxes(layers=(options.layer,), alphas=options.alphas or (1.0,), targets=(options.target,))
    checked = EvalOptions(axes=axes, allow_foreign=options.allow_foreign)
    origin = check_vector(session.cache, vector, loaded, checked)
    asked = _questions(benchmark, loaded, options, word=word)
    ready = [one for one in asked if one.encoded is not None]
    inputs, order = sample_inputs(
        loaded,
        [one.encoded for one in ready if one.encoded is not None],
        split=SPLIT,
        tokens_per_batch=options.tokens_per_batch,
    )
    load = load or (lambda: loaded)
    share = _unit_share(session, loaded, vector, asked, options, load=load)
    alphas = options.alphas or tuple(float(f"{part / share:.2g}") for part in AUTO)
    plan = _plan(replace(options, alphas=alphas))
    kept = kept_word_mass(loaded, vector, plan, inputs=inputs, scores=partial(stored_scores, session.cache))
    effect = kept or word_mass_effect(load(), vector, plan, inputs=inputs, progress=progress)
    if word in effect.left_out:
        raise UsageError(f"{word!r} is several tokens for {loaded.spec.name}, so its probability cannot be read")
    if kept is None:
        for direction in effect.vectors[1:]:
            session.save(direction)
    name = f"colours-{loaded.spec.name}-{vector.name}"
    manifest = {
        "kind": "colours",
        "model": answer_identity(loaded),
        "benchmark": {"name": benchmark.name, "rule": benchmark.rule},
        "vector": vector.vector_id,
        "word": word,
        "open_question": options.open_question,
        "samples": inputs.prompt_id,
        "cells": digest(sorted(cell.cell_id for cell in effect.cells)),
        **effect.plan.manifest(),
    }
    sweep_id = sweep_id_of(name, manifest)
    if kept is None or not session.cache.paths.sweep(sweep_id).is_dir():
        save_sweep(session.cache, name, manifest=manifest, cells=effect.cells, answers=effect.answers)
    points = colour_points(effect, word=word, right=[str(ready[i].labels.answer) for i in order], seed=options.seed)
    breaks_at, random_breaks_at = breaks(points)
    return ColourEffect(
        sweep_id=sweep_id,
        model=loaded.spec.name,
        benchmark=benchmark.name,
        vector=vector.name,
        lineage=origin,
        word=word,
        layer=options.layer,
        target=options.target,
        alpha_unit=options.alpha_unit,
        n=effect.n_inputs,
        n_random=options.n_random,
        unit_share=share,
        points=points,
        p_best=_p_best(effect, word),
        breaks_at=breaks_at,
        random_breaks_at=random_breaks_at,
        named_lost_at=named_lost(points),
        left_out=effect.left_out,
        n_computed=0 if kept is not None else len(effect.answers),
        failures=tuple(f"{one.place}: {one.error}" for one in asked if one.encoded is None),
        effect=effect,
    )


def colour_points(effect: WordMass, *, word: str, right: Sequence[str], seed: int = 0) -> tuple[ColourPoint, ...]:
    """The curves of an effect; `right` is the right word of every input. A right word that was not scored counts as 0."""
    p = effect.probability_vapw
    named = summarise_mass(p[..., effect.words.index(word)], effect.alphas, seed=seed)
    of_right: Masses = np.where(np.isnan(p).any(axis=-1), np.nan, 0.0)
    for i, own in enumerate(right):
        if own in effect.words:
            of_right[:, :, i] = p[:, :, i, effect.words.index(own)]
    at_right = summarise_mass(of_right, effect.alphas, seed=seed)
    at_any = summarise_mass(effect.mass_vap, effect.alphas, seed=seed)
    return tuple(
        ColourPoint(
            alpha=alpha,
            words={name: _mean(p[0, a, :, w]) for w, name in enumerate(effect.words)},
            named=named[a],
            right=at_right[a],
            any_word=at_any[a],
        )
        for a, alpha in enumerate(effect.alphas)
    )


def breaks(points: Sequence[ColourPoint]) -> tuple[float | None, float | None]:
    """The smallest positive strength at which the words are lost, for the vector and for the random directions' mean."""
    plain, steered = _plain_and_steered(points)
    kept = LOST * plain.any_word.mass
    own = next((p.alpha for p in steered if not p.any_word.mass >= kept), None)  # NaN: every pass overflowed
    random = next((p.alpha for p in steered if p.any_word.random_mean < kept), None)
    return own, random


def named_lost(points: Sequence[ColourPoint]) -> float | None:
    """The smallest positive strength beyond the peak at which the vector's word falls below its unsteered probability.

    A word that no strength raises has no peak to fall from: that is no effect, and not one that was lost.
    """
    plain, steered = _plain_and_steered(points)
    steered = [p for p in steered if not np.isnan(p.named.mass)]
    peak = max((plain, *steered), key=lambda p: p.named.mass)
    if peak is plain:
        return None
    return next((p.alpha for p in steered if p.alpha > peak.alpha and p.named.mass < plain.named.mass), None)


def _questions(
    benchmark: Benchmark, loaded: LoadedModel, options: ColourOptions, *, word: str
) -> tuple[EncodedQuestion, ...]:
    """One question a picture, with another colour word as its right answer, in the words that the model was trained on."""
    fitting = [e for e in benchmark.part(SPLIT) if e.labels.answer in options.words and e.labels.answer != word]
    # The first question of each picture: intervals are over pictures.
    pictures = {e.labels.group_id or e.place: e for e in reversed(fitting)}
    others = tuple(reversed(pictures.values()))
    if options.open_question:
        others = tuple(
            replace(e, labels=replace(e.labels, meta={**e.labels.meta, "prompt": e.labels.question})) for e in others
        )
    rows = pick_rows(replace(benchmark, examples=others, failures=()), SPLIT, n=options.n, orphans=SPLIT)
    asked = ask(rows, loaded.bundle, split=SPLIT)
    if all(one.encoded is None for one in asked):
        raise UsageError(f"none of the {len(asked)} questions can be asked; the first: {asked[0].error}")
    return asked


def _unit_share(
    session: Session,
    loaded: LoadedModel,
    vector: SteeringVector,
    asked: Sequence[EncodedQuestion],
    options: ColourOptions,
    *,
    load: Callable[[], LoadedModel],
) -> float:
    """Length of what alpha 1 adds, over that of a median row it is added to."""
    unit = delta_of(vector, options.layer, alpha=1.0, alpha_unit=options.alpha_unit)
    length = float(np.linalg.norm(unit))
    if length == 0:
        raise UsageError(f"the vector {vector.name!r} is zero at layer {options.layer}")
    norm = row_norms_of(session.cache, loaded.bundle, asked, load=load)[options.target][options.layer]
    if not norm:
        raise UsageError(f"the {options.target} tokens of these questions have no rows to steer")
    return length / norm


def _plan(options: ColourOptions) -> WordMassPlan:
    return WordMassPlan(
        words=options.words,
        layer=options.layer,
        alphas=options.alphas,
        target=options.target,
        alpha_unit=options.alpha_unit,
        n_random=options.n_random,
        seed=options.seed,
        forms="any",
        apart=True,
        memory_mib=options.memory_mib,
    )


def _p_best(effect: WordMass, word: str) -> float | None:
    return rank_of_best(effect.probability_vapw[:, 1:, :, effect.words.index(word)])


def _plain_and_steered(points: Sequence[ColourPoint]) -> tuple[ColourPoint, list[ColourPoint]]:
    """The unsteered point, and those of positive strength, weakest first."""
    plain = next(p for p in points if p.alpha == 0)
    return plain, sorted((p for p in points if p.alpha > 0), key=lambda p: p.alpha)


_HINT = "name the colour; or fit one with the query concept_vs_other_concepts and the concept red"


def _mean(mass_p: Masses) -> float:
    """Over the inputs that did not overflow; NaN for none."""
    known = mass_p[~np.isnan(mass_p)]
    return float(known.mean()) if len(known) else float("nan")
