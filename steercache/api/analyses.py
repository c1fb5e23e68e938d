"""The paper's further questions over a cache: words, colours, patches, drift, and own against backbone vectors."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Literal

from steercache.analysis.colours import ColourEffect, colour_effect
from steercache.analysis.colours import ColourOptions as ColourOptions
from steercache.analysis.drift import ROLES as ROLES
from steercache.analysis.drift import Drift, measure_drift
from steercache.analysis.origins import Origins, compare_origins, find_origins
from steercache.analysis.patches import PatchMaps, find_sample, patch_maps
from steercache.answers.store import stored_scores
from steercache.api.evaluating import ModelLike, VectorLike, found_vectors, loaded_model
from steercache.api.progress import ProgressLike, reporting
from steercache.cache.sweeps import save_sweep, sweep_id_of
from steercache.cells.model import find_model
from steercache.cells.options import EvalOptions
from steercache.cells.vector_model import load_model_of, model_without_weights_of
from steercache.cells.vectors import check_lineage
from steercache.core.errors import UsageError
from steercache.core.ids import digest
from steercache.core.trials import AlphaUnit, Target
from steercache.core.vectors import SteeringVector
from steercache.data.benchmarks import open_benchmark
from steercache.data.benchmarks.questions import Benchmark
from steercache.models.ends import answer_identity
from steercache.models.spec import LoadedModel
from steercache.queries.session import Session
from steercache.steering.effects import WordMass, WordMassPlan, word_mass_effect
from steercache.steering.effects_kept import kept_word_mass
from steercache.steering.mass_curves import MassAtAlpha as MassAtAlpha
from steercache.steering.mass_curves import rank_of_best as rank_of_best
from steercache.steering.mass_curves import summarise as summarise
from steercache.steering.neutral import PROMPTS, WORDS


@dataclass(frozen=True, slots=True, kw_only=True)
class WordEffect:
    """The effect on words, the sweep that keeps its answers, and whether they all had been computed before."""

    effect: WordMass
    sweep_id: str
    from_cache: bool


def word_plan(
    vector: SteeringVector,
    *,
    layer: int,
    alphas: Sequence[float] = (0.5, 1.0, 2.0, 4.0),
    alpha_unit: AlphaUnit = "raw",
    target: Target = "text",
    words: Sequence[str] = (),
    prompts: Sequence[str] = (),
    n_random: int = 20,
    seed: int = 0,
) -> WordMassPlan:
    """What `words` measures. Without `words`, those listed for the vector's concept; without `prompts`, 16 neutral ones.

    Raises:
        UsageError: no words are listed for the concept, or no strength but 0.
    """
    steered = tuple(
        float(alpha) for alpha in dict.fromkeys(alphas) if alpha != 0
    )  # the model itself is always measured
    if not steered:
        raise UsageError(
            "no strength other than 0, which is the unsteered model", hint="give strengths such as 1, 2 and 4"
        )
    listed = tuple(words) or WORDS.get(vector.concept or "", ())
    if not listed:
        raise UsageError(
            f"no words are listed for {vector.concept or vector.name!r}", hint="name words such as one, two, three"
        )
    return WordMassPlan(
        words=listed,
        prompts=tuple(prompts) or PROMPTS,
        layer=layer,
        alphas=steered,
        target=target,
        alpha_unit=alpha_unit,
        n_random=n_random,
        seed=seed,
    )


def words(
    session: Session,
    vector: VectorLike,
    plan: WordMassPlan,
    *,
    model: str | LoadedModel | None = None,
    device: str = "auto",
    dtype: str = "auto",
    allow_foreign: bool = False,
    progress: ProgressLike = None,
) -> WordEffect:
    """Probability that one of `plan.words` comes next, by strength, beside random directions of equal norm.

    Answers are kept, and read again where they are. The model is that of the vector's run unless given.

    Raises:
        UsageError: the vector's model is unknown, or other weights than the model's and that is not allowed; a layer that the
            model does not have.
    """
    (direction,) = found_vectors(session, [vector])
    if isinstance(model, LoadedModel):
        light = model
        check_lineage(session.cache, direction, model.spec, allow_foreign=allow_foreign)
    else:
        light = model_without_weights_of(session.cache, direction, model, dtype=dtype, allow_foreign=allow_foreign)
    effect = kept_word_mass(light, direction, plan, scores=partial(stored_scores, session.cache))
    kept = effect is not None
    if effect is None:
        loaded = light
        with reporting(progress) as show:
            if not isinstance(model, LoadedModel):
                loaded = load_model_of(
                    session.cache, direction, model, device=device, dtype=dtype, allow_foreign=allow_foreign
                )
            effect = word_mass_effect(loaded, direction, plan, progress=show)
        for random in effect.vectors[1:]:
            session.save(random)
    manifest = {
        "kind": "word_mass",
        "model": answer_identity(light),
        "vector": direction.vector_id,
        "cells": digest(sorted(cell.cell_id for cell in effect.cells)),
        **effect.plan.manifest(),
    }
    name = f"words-{direction.name}"
    sweep_id = sweep_id_of(name, manifest)
    if not kept or not session.cache.paths.sweep(sweep_id).is_dir():
        save_sweep(session.cache, name, manifest=manifest, cells=effect.cells, answers=effect.answers)
    return WordEffect(effect=effect, sweep_id=sweep_id, from_cache=kept)


def colours(
    session: Session,
    model: ModelLike,
    vector: VectorLike,
    options: ColourOptions,
    *,
    shifted: bool = False,
    device: str = "auto",
    dtype: str = "auto",
    progress: ProgressLike = None,
) -> ColourEffect:
    """Probabilities of colour words against strength, for a colour's vector on the image tokens of drawn scenes.

    The right answer is always another colour; only the search split of `scenes` (or `scenes-shifted`) is used.

    Raises:
        UsageError: a text model, or a vector that does not fit the model.
    """
    (direction,) = found_vectors(session, [vector])
    limit = None if options.n is None else 6 * options.n  # a sixth of the questions asks for another colour
    benchmark = open_benchmark("scenes-shifted" if shifted else "scenes", task="Attribute", form="word", limit=limit)
    if isinstance(model, LoadedModel):
        with reporting(progress) as show:
            return colour_effect(session, model, direction, benchmark, options, progress=show)
    root = session.cache.root
    named = find_model(str(model), root)
    light = LoadedModel(model=None, bundle=named.bundle(root, dtype=dtype))
    load = partial(named.load, root, device=device, dtype=dtype)
    with reporting(progress) as show:
        return colour_effect(session, light, direction, benchmark, options, load=cache(load), progress=show)


def patches(
    session: Session,
    run: str,
    sample: str | int,
    vector: VectorLike,
    *,
    layers: Sequence[int],
    view: Literal["fine", "small"] = "fine",
    allow_foreign: bool = False,
) -> PatchMaps:
    """Projections of one picture's image rows on a vector, as a (rows, columns) map per layer.

    `sample` is its number in the run, its id, or a prefix of the id of six digits or more; `view` chooses between the views of
    a model that looks twice (tiles and the whole picture): the one with most, or with fewest patches.

    Raises:
        NotFoundError: no such run, sample or vector. UsageError: the run kept no image rows at these layers; the vector was
            fitted on other weights than the run's model or its backbone, and that is not allowed.
    """
    name = vector if isinstance(vector, str) else vector.vector_id
    return patch_maps(
        session, find_sample(session, run, str(sample)), name, layers=layers, view=view, allow_foreign=allow_foreign
    )


def drift(
    session: Session,
    run: str,
    other: str,
    *,
    site: str = "resid_post",
    layers: Sequence[int] | None = None,
    text_only: bool = False,
    progress: ProgressLike = None,
) -> Drift:
    """Cosine and relative distance between the rows of two runs on the tokens that both read, per layer and role of token.

    Raises:
        NotFoundError: no such run. UsageError: the runs share no tokens or layers.
    """
    with reporting(progress) as show:
        return measure_drift(session, run, other, site=site, layers=layers, text_only=text_only, progress=show)


def own_against_backbone(
    session: Session,
    model: ModelLike,
    benchmark: Benchmark,
    *,
    concept: str,
    options: EvalOptions,
    method: str = "mean_shift",
    progress: ProgressLike = None,
) -> Origins:
    """Evaluate the vector fitted on a multimodal model's own activations and its backbone's, and compare the two.

    Both are the newest of their concept and method.

    Raises:
        NotFoundError: one of the vectors is missing. UsageError: both have one name.
    """
    loaded = loaded_model(model, session.cache.root)
    own, backbone = find_origins(session, loaded.spec, concept=concept, method=method)
    if own.name == backbone.name:
        raise UsageError(
            f"both vectors are called {own.name!r}",
            hint=f"fit the model's own vector under another name, such as {own.name}-own",
        )
    with reporting(progress) as show:
        return compare_origins(session, loaded, benchmark, own=own, backbone=backbone, options=options, progress=show)
