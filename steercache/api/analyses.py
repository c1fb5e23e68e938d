"""The paper's further questions over a cache: words, colours, patches, drift, and own against backbone vectors."""

from collections.abc import Sequence
from typing import Literal

from steercache.analysis.colours import ColourEffect, ColourOptions, colour_effect
from steercache.analysis.drift import Drift, measure_drift
from steercache.analysis.origins import Origins, compare_origins, find_origins
from steercache.analysis.patches import PatchMaps, find_sample, patch_maps
from steercache.api.evaluating import ModelLike, VectorLike, found_vectors, loaded_model
from steercache.api.progress import ProgressLike, reporting
from steercache.cache.sweeps import save_sweep
from steercache.cells.arms import EvalOptions
from steercache.cells.vector_model import load_model_of
from steercache.cells.vectors import check_lineage
from steercache.core.errors import UsageError
from steercache.data.benchmarks import open_benchmark
from steercache.data.benchmarks.questions import Benchmark
from steercache.models.spec import LoadedModel
from steercache.queries.session import Session
from steercache.steering.effects import WordMass, WordMassPlan, word_mass_effect


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
) -> tuple[WordMass, str]:
    """Probability that one of `plan.words` comes next, by strength, beside random directions of equal norm.

    Returns the effect and the id of the sweep that keeps its answers. The model is that of the vector's run unless given.

    Raises:
        UsageError: the vector's model is unknown, or other weights than the model's and that is not allowed; a layer that the
            model does not have.
    """
    (direction,) = found_vectors(session, [vector])
    if isinstance(model, LoadedModel):
        loaded = model
        check_lineage(session.cache, direction, loaded.spec, allow_foreign=allow_foreign)
    else:
        loaded = load_model_of(session.cache, direction, model, device=device, dtype=dtype, allow_foreign=allow_foreign)
    with reporting(progress) as show:
        effect = word_mass_effect(loaded, direction, plan, progress=show)
    for random in effect.vectors[1:]:
        session.save(random)
    manifest = {"kind": "word_mass", "vector": direction.vector_id, **plan.manifest()}
    name = f"words-{direction.name}"
    return effect, save_sweep(session.cache, name, manifest=manifest, cells=effect.cells, answers=effect.answers)


def colours(
    session: Session,
    model: ModelLike,
    vector: VectorLike,
    options: ColourOptions,
    *,
    shifted: bool = False,
    progress: ProgressLike = None,
) -> ColourEffect:
    """Probabilities of colour words against strength, for a colour's vector on the image tokens of drawn scenes.

    The right answer is always another colour; only the search split of `scenes` (or `scenes-shifted`) is asked.

    Raises:
        UsageError: a text model, or a vector that does not fit the model.
    """
    (direction,) = found_vectors(session, [vector])
    limit = None if options.n is None else 6 * options.n  # a sixth of the questions asks for another colour
    benchmark = open_benchmark("scenes-shifted" if shifted else "scenes", task="Attribute", form="word", limit=limit)
    loaded = loaded_model(model, session.cache.root)
    with reporting(progress) as show:
        return colour_effect(session, loaded, direction, benchmark, options, progress=show)


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
