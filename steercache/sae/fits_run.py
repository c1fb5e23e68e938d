"""Whether an SAE belongs to the activations of a run: model, site, layer, width, beginning-of-sequence token."""

import warnings

from steercache.cache.documents import RunDocument, RunModel
from steercache.cache.handle import CacheFolder
from steercache.core.errors import SteercacheWarning, UsageError
from steercache.core.ids import SHORT_ID
from steercache.core.saes import SaeSpec

_BOS = """
SELECT count(*), count(*) FILTER (first_special < coalesce(first_text, first_special + 1)) FROM (
    SELECT
        min(position) FILTER (kind = 'special') AS first_special,
        min(position) FILTER (kind IN ('text', 'template')) AS first_text
    FROM tokens WHERE run_id = ? GROUP BY sample_idx
)
"""


def check_fits(spec: SaeSpec, cache: CacheFolder, run_id: str, *, allow_foreign: bool = False) -> None:
    """Refuse an SAE whose activations are not those of the run.

    The model must be the SAE's own, or one that was grown from it, by name: an SAE says no more. `allow_foreign` makes a
    warning of another model, of another convention about the beginning-of-sequence token (BOS), and of a model whose weights
    were processed; site, layer and width must fit.

    Raises:
        UsageError: with everything that does not fit, each with both sides.
    """
    document = cache.run_document(run_id)
    hard = _place_problems(spec, document)
    soft = [
        _model_problem(spec, document.model),
        _processing_problem(spec, document.model),
        _bos_problem(spec, cache, document),
    ]
    found = [problem for problem in soft if problem is not None]
    run = f"{document.name} ({run_id[:SHORT_ID]})"
    if hard or (found and not allow_foreign):
        raise UsageError(
            f"the SAE {spec.name!r} does not fit the run {run}: {'; '.join([*hard, *found])}",
            hint="choose another run or SAE" if hard else "choose another run or SAE, or allow a foreign SAE",
        )
    if found:
        message = f"the SAE {spec.name!r} does not fit the run {run}: {'; '.join(found)}"
        warnings.warn(message, SteercacheWarning, stacklevel=2)


def check_steers(spec: SaeSpec, model: RunModel, *, allow_foreign: bool = False) -> None:
    """Refuse an SAE whose decoder rows are no directions that can be added to a model's `resid_post`.

    `allow_foreign` makes a warning of another model, and of a model whose weights were processed; site, layer and width must
    fit.

    Raises:
        UsageError: with everything that does not fit, each with both sides.
    """
    hard = []
    if spec.site != "resid_post":
        hard.append(f"the SAE reads {spec.site}, and steering adds at resid_post")
    elif spec.layer is None:
        hard.append("the SAE does not say its layer")
    elif spec.layer >= model.n_layers:
        hard.append(f"the SAE reads layer {spec.layer}, the model has {model.n_layers} layers")
    if spec.d_in != model.hidden_size:
        hard.append(f"the SAE reads activations of width {spec.d_in:,}, the model's have {model.hidden_size:,}")
    found = [
        problem
        for problem in (_model_problem(spec, model, "the steered model is"), _processing_problem(spec, model))
        if problem
    ]
    message = f"the SAE {spec.name!r} does not fit the model {model.name}: {'; '.join([*hard, *found])}"
    if hard or (found and not allow_foreign):
        raise UsageError(message, hint="choose another SAE" if hard else "choose another SAE, or allow a foreign SAE")
    if found:
        warnings.warn(message, SteercacheWarning, stacklevel=2)


def has_bos(cache: CacheFolder, run_id: str) -> bool | None:
    """Whether every sample of a run begins with a special token, pictures left aside; None for a run without tokens.

    A BOS is such a token, and so is what a chat template begins with.
    """
    with cache.connection() as connection:
        n_samples, n_begun = connection.execute(_BOS, [run_id]).fetchone()
    return None if n_samples == 0 else n_begun == n_samples


def _place_problems(spec: SaeSpec, document: RunDocument) -> list[str]:
    """Site, layer and width."""
    kept = {site.site: site for site in document.layout.sites}
    if spec.site not in kept:
        return [f"the SAE reads {spec.site}, the run keeps {', '.join(sorted(kept))}"]
    site = kept[spec.site]
    problems = []
    if spec.layer is None:
        problems.append("the SAE does not say its layer")
    elif spec.layer not in site.layers:
        layers = ", ".join(map(str, site.layers))
        problems.append(f"the SAE reads layer {spec.layer} of {spec.site}, the run keeps layers {layers}")
    if spec.d_in != site.width:
        problems.append(f"the SAE reads activations of width {spec.d_in:,}, the run's have {site.width:,}")
    return problems


def _model_problem(spec: SaeSpec, model: RunModel, side: str = "the run is of") -> str | None:
    said = [name for name in (spec.source.get("model"), spec.model_name) if name]
    theirs = [name for name in (model.name, model.model_id, model.backbone) if name]
    if not said or {_plain(name) for name in said} & {_plain(name) for name in theirs}:
        return None
    grown = f", grown from {model.backbone}" if model.backbone else ""
    return f"the SAE was trained on the model {said[-1]}, {side} {model.name}{grown}"


def _processing_problem(spec: SaeSpec, model: RunModel) -> str | None:
    if "center_writing_weights" not in spec.weight_processing:
        return None
    return f"the SAE was trained on a model with centred weights, the run is of {model.name} as it was published"


def _bos_problem(spec: SaeSpec, cache: CacheFolder, document: RunDocument) -> str | None:
    if spec.prepend_bos is None:
        return None
    found = has_bos(cache, document.run_id)
    if found is None or found == spec.prepend_bos:
        return None
    if spec.prepend_bos:
        return "the SAE was trained on texts that begin with BOS, the run's samples do not"
    return "the SAE was trained on texts without BOS, the run's samples begin with a special token"


def _plain(name: str) -> str:
    """A model's name without its owner or folder, in lower case."""
    return name.rstrip("/").replace("\\", "/").split("/")[-1].lower()
