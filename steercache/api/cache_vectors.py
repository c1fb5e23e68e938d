"""Fitting, keeping and comparing vectors."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from steercache.api.cache_core import CacheCore
from steercache.api.progress import ProgressLike
from steercache.api.runs import Run
from steercache.cache.vectors import list_vectors
from steercache.core.vectors import SteeringVector

if TYPE_CHECKING:
    from steercache.api.fitting import MethodName
    from steercache.api.recipes import RecipeLike
    from steercache.api.sae_fitting import SaeLike, SelectionName
    from steercache.cache.vector_files import StoredVector
    from steercache.exchange.vectors.held import Norm
    from steercache.exchange.vectors.importing import ImportedVector
    from steercache.sae.endpoint import JudgeEndpoint


class VectorMethods(CacheCore):
    """Fitting, keeping and comparing vectors."""

    def fit(
        self,
        method: "MethodName" = "mean_shift",
        *,
        concept: str | None = None,
        all_concepts: bool = False,
        query: str | None = None,
        where: str | None = None,
        run: str | Run | None = None,
        site: str = "resid_post",
        bindings: Mapping[str, Any] | None = None,
        recipe: Literal["default", "paper"] = "default",
        layers: Sequence[int] | None = None,
        name: str | None = None,
        seed: int = 0,
        top: int | None = None,
        diagnose: bool = True,
        sae: "SaeLike | None" = None,
        selection: "SelectionName" = "paper",
        judge: "JudgeEndpoint | None" = None,
        verdicts: str | PathLike[str] | None = None,
        unverified: bool = False,
        evidence: str | PathLike[str] | None = None,
        meaning: str | None = None,
        per_feature: bool = False,
        allow_foreign: bool = False,
        progress: ProgressLike = None,
    ) -> list[SteeringVector]:
        """Fit a vector for a concept (or one per concept of the run), diagnose it, save it, and return all of them.

        `query` is a named selection or SQL, `bindings` its parameters; without one, anchors against controls, or the last
        tokens of contrastive pairs where the run has only pairs. `where` keeps the rows whose tokens a target selects, by the
        text that steering takes ("kind = 'image'"): a vector is fitted on what it will be added to. Without `run`, the newest
        complete text run that has the concept. A vector is named after its concept, or, for pairs without one, after its run.
        `seed` is that of the paper's probe and of `lat`, `top` how many attention heads `head_probes` keeps (rows of the `site`
        "head_out"). `diagnose` also measures held-out AUC (vector and token only), d', how alike the differences within pairs
        are, norms and stability per layer. `steercache.fit.catalogue` has the formula of every method.

        Method "sae" takes the mean of decoder rows, at unit norm, of the features of an `sae` (a manifest with one SAE per
        layer, its name or file, a folder, or a loaded SAE) that `selection` picks (paper, firing_rate or sparse_probe) and that
        are verified: by a `judge` (a language model behind an endpoint), by the `verdicts` of a sheet that `review_sae` wrote,
        or not at all (`unverified`, which the vector then says). `evidence` is a file or folder of Neuronpedia exports for the
        judge, `meaning` says in words what the concept means, `per_feature` also makes a vector of each feature, and
        `allow_foreign` takes an SAE of another model or BOS convention. Every candidate is a row of the table `features`.

        Raises:
            UsageError: no such method or layer; both `concept` and `all_concepts`; an SAE that does not fit the run, no way to
                verify its features, or none that is verified. QueryError: the query, or no rows.
            NotFoundError: no such run or SAE, or no sample with a concept.
        """
        from steercache.api.fitting import FitRequest, fit_vectors

        request = FitRequest(
            concept=concept,
            all_concepts=all_concepts,
            query=query,
            where=where,
            run=_run_name(run),
            site=site,
            bindings=bindings or {},
            recipe=recipe,
            layers=layers,
            name=name,
            seed=seed,
            top=top,
            diagnose=diagnose,
        )
        if method != "sae":
            return fit_vectors(self._session, method, request, progress=progress)
        from steercache.api.sae_fitting import fit_sae_vectors, sae_options

        options = sae_options(
            sae,
            selection=selection,
            judge=judge,
            verdicts=verdicts,
            unverified=unverified,
            evidence=evidence,
            meaning=meaning,
            per_feature=per_feature,
            allow_foreign=allow_foreign,
        )
        return fit_sae_vectors(self._session, request, options, progress=progress)

    def fit_recipe(
        self,
        recipe: "RecipeLike",
        *,
        concept: str | None = None,
        all_concepts: bool = False,
        query: str | None = None,
        where: str | None = None,
        run: str | Run | None = None,
        bindings: Mapping[str, Any] | None = None,
        layers: Sequence[int] | None = None,
        from_layer: int | None = None,
        name: str | None = None,
        diagnose: bool = True,
        sae: "SaeLike | None" = None,
        verdicts: str | PathLike[str] | None = None,
        unverified: bool = False,
        condition: str | None = None,
        progress: ProgressLike = None,
    ) -> list[SteeringVector]:
        """Fit a vector as a paper does and save it with its use: operation, place, tokens, strength where the paper has one.

        `recipe` is the name of one that ships (`steercache fit --list`, the page Methods), a manifest's file or a
        RecipeManifest. The other parameters are those of `fit`; `query` and `bindings` take the place of the recipe's.
        `from_layer` is for recipes that take the direction of one layer at every layer: by default the one with the highest
        held-out AUC. `sae`, `verdicts` and `unverified` are for recipes with features of an SAE. `condition` is for recipes
        that steer some prompts only: the concept of pairs whose positive side is to be steered and whose negative side is not.
        The condition vector is saved as well, and the use's target names it: `cache.target(vector.use.target)` reads it.
        `steercache.steered(model, vector)` applies the use.

        Raises:
            UsageError: as `fit`; a `from_layer` or a `condition` for a recipe that has none, a recipe with a condition without
                one, a run of another kind of model.
            NotFoundError: no such recipe, or as `fit`. QueryError: as `fit`.
        """
        from steercache.api.fitting import FitRequest
        from steercache.api.recipes import RecipeRequest, find_recipe, fit_recipe
        from steercache.api.sae_fitting import sae_options

        fit = FitRequest(
            concept=concept,
            all_concepts=all_concepts,
            query=query,
            where=where,
            run=_run_name(run),
            bindings=bindings or {},
            layers=layers,
            name=name,
            diagnose=diagnose,
        )
        options = None if sae is None else sae_options(sae, verdicts=verdicts, unverified=unverified)
        request = RecipeRequest(fit=fit, from_layer=from_layer, sae=options, condition=condition)
        return fit_recipe(self._session, find_recipe(recipe), request, progress=progress)

    def review_sae(
        self,
        sae: "SaeLike",
        path: str | PathLike[str],
        *,
        concept: str | None = None,
        run: str | Run | None = None,
        layers: Sequence[int] | None = None,
        selection: "SelectionName" = "paper",
        evidence: str | PathLike[str] | None = None,
        allow_foreign: bool = False,
        progress: ProgressLike = None,
    ) -> tuple[Path, Path]:
        """Write the features that a fit would pick to `path`.csv, with an empty column `verdict`, and to `path`.md, to be read.

        Filled in, the CSV is the `verdicts` of `fit("sae", ...)` with the same concept, run, layers and selection.

        Raises:
            UsageError: as `fit`; or the CSV is there and holds verdicts. NotFoundError: as `fit`.
        """
        from steercache.api.fitting import FitRequest
        from steercache.api.sae_fitting import review_sheets, sae_options

        request = FitRequest(concept=concept, run=_run_name(run), layers=layers)
        options = sae_options(sae, selection=selection, evidence=evidence, allow_foreign=allow_foreign)
        return review_sheets(self._session, request, options, path=Path(path), progress=progress)

    def stored_vectors(self) -> "list[StoredVector]":
        """Every vector with the time it was saved, newest first; controls of evaluations too."""
        return list_vectors(self._session.cache)

    def compare(self, *names: str) -> list[dict[str, Any]]:
        """Cosines between stored vectors: per layer that all have, {"layer", "cosines": {"first ~ second": cosine}}.

        Raises:
            NotFoundError: no such vector. UsageError: fewer than two, other widths, or no layer in common.
        """
        from steercache.fit import compare

        return compare([self.vector(name) for name in names])

    def vector(self, name: str) -> SteeringVector:
        """The vector that has this name, id or unique prefix. Raises NotFoundError."""
        return self._session.vector(name)

    def save(self, vector: SteeringVector) -> Path:
        """Keep a vector in the cache; returns its file. Diagnostics that it does not bring are kept.

        Raises:
            UsageError: the same vector is saved under another name.
        """
        return self._session.save(vector)

    def refit(self, name: str) -> SteeringVector:
        """Fit a stored vector again from its provenance; it is not saved. Raises as `steercache.fit.refit`.

        A vector of an SAE is made from its recorded rows, SAEs, selection and verdicts; no judge is asked.
        """
        from steercache.fit import refit

        vector = self.vector(name)
        if vector.method == "sae":
            from steercache.sae.again import refit as refit_sae

            return refit_sae(vector, self._session)
        return refit(vector, self._session)

    def suggest_use(self, vector: str, sweep: str) -> SteeringVector:
        """Save a vector with the use that a sweep suggests: the cell that it chose, and the damage measured there.

        Raises:
            NotFoundError: no such vector or sweep, or the sweep chose no cell for it.
        """
        from steercache.sweeps.find import find_record
        from steercache.sweeps.suggested_use import suggested_use

        found = self.vector(vector)
        used = replace(found, use=suggested_use(find_record(self._session, sweep), found))
        self.save(used)
        return used

    def import_vector(
        self,
        path: str | PathLike[str],
        *,
        source: str | None = None,
        site: str | None = None,
        layer_offset: int | None = None,
        norm: "Norm | None" = None,
        layers: Sequence[int] | None = None,
        name: str | None = None,
        concept: str | None = None,
        run: str | Run | None = None,
        query: str | None = None,
        check_layer_offset: bool = False,
        ignore_header: bool = False,
    ) -> "ImportedVector":
        """Read a vector from another tool's file, save it, and return it with what was lost on the way.

        `source` is the format: gguf, steering-vectors, lm-eval, saklas, easysteer, vllm-lens, pytorch, textsteersvision, npz
        (`.npy` too) or safetensors; by the file's name where that says it. A file that steercache wrote says everything itself
        (unless `ignore_header`) and gives the vector with the same id. Of another, what its format does not say must be given:
        `site`, `layer_offset` (block = its number + offset), `norm` ("keep" its lengths, or "unit"), `layers` (the numbers of
        rows that have none). `run` is one of the model that it belongs to.

        `check_layer_offset` finds the offset: it compares the directions with mean differences of the cached activations of
        `concept` (or `query`, in `run`) at every block.

        Raises:
            UsageError: a file that cannot be read, that is not a vector, that does not say enough, or whose offset cannot be
                told. NotFoundError: no such run, or none with the concept.
        """
        from steercache.api.exchanging import ImportTerms, take_in

        terms = ImportTerms(
            site=site,
            layer_offset=layer_offset,
            norm=norm,
            layers=None if layers is None else tuple(layers),
            name=name,
            concept=concept,
            ignore_header=ignore_header,
        )
        imported, _ = take_in(
            self._session,
            Path(path),
            source=source,
            terms=terms,
            run=_run_name(run),
            query=query,
            check_layer_offset=check_layer_offset,
        )
        return imported


def _run_name(run: str | Run | None) -> str | None:
    return None if run is None else str(run)
