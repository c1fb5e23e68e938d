"""Fitting, keeping and comparing vectors."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from steercache.api.cache_core import CacheCore
from steercache.api.progress import ProgressLike
from steercache.api.runs import Run
from steercache.cache.vectors import list_vectors
from steercache.core.vectors import SteeringVector

if TYPE_CHECKING:
    from steercache.api.fitting import MethodName
    from steercache.cache.vector_files import StoredVector


class VectorMethods(CacheCore):
    """Fitting, keeping and comparing vectors."""

    def fit(
        self,
        method: "MethodName" = "mean_shift",
        *,
        concept: str | None = None,
        all_concepts: bool = False,
        query: str | None = None,
        run: str | Run | None = None,
        site: str = "resid_post",
        bindings: Mapping[str, Any] | None = None,
        recipe: Literal["default", "paper"] = "default",
        layers: Sequence[int] | None = None,
        name: str | None = None,
        seed: int = 0,
        diagnose: bool = True,
        progress: ProgressLike = None,
    ) -> list[SteeringVector]:
        """Fit a vector for a concept (or one per concept of the run), diagnose it, save it, and return all of them.

        `query` is a named selection or SQL, `bindings` its parameters; without one, anchors against controls, or the last
        tokens of contrastive pairs where the run has only pairs. Without `run`, the newest complete text run that has the
        concept. A vector is named after its concept, or, for pairs without one, after its run. `seed` is that of the paper's
        probe. `diagnose` also measures held-out AUC (vector and token only), norms and stability per layer.

        Raises:
            UsageError: no such method or layer; both `concept` and `all_concepts`. QueryError: the query, or no rows.
            NotFoundError: no such run, or no sample with a concept.
        """
        from steercache.api.fitting import FitRequest, fit_vectors

        request = FitRequest(
            concept=concept,
            all_concepts=all_concepts,
            query=query,
            run=_run_name(run),
            site=site,
            bindings=bindings or {},
            recipe=recipe,
            layers=layers,
            name=name,
            seed=seed,
            diagnose=diagnose,
        )
        return fit_vectors(self._session, method, request, progress=progress)

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
        """Fit a stored vector again from its provenance; it is not saved. Raises as `steercache.fit.refit`."""
        from steercache.fit import refit

        return refit(self.vector(name), self._session)


def _run_name(run: str | Run | None) -> str | None:
    return None if run is None else str(run)
