"""Sparse autoencoders."""

from os import PathLike
from typing import TYPE_CHECKING, cast

from steercache.api.cache_core import CacheCore
from steercache.api.progress import ProgressLike, reporting
from steercache.api.runs import Run

if TYPE_CHECKING:
    from steercache.api.cache import Cache
    from steercache.api.sae_encoding import EncodedRun
    from steercache.api.saes import NamedSae
    from steercache.manifests.sae import SaeManifest
    from steercache.models.spec import LoadedModel
    from steercache.sae.health import Health
    from steercache.sae.loaded import LoadedSae


class SaeMethods(CacheCore):
    """Sparse autoencoders."""

    def sae(
        self, name: "str | PathLike[str] | SaeManifest", *, layer: int | None = None, device: str = "cpu"
    ) -> "LoadedSae":
        """Load an SAE by manifest, `NAME-l12` or folder, from this machine's files; see `steercache.load_sae`."""
        from steercache.api.saes import load_sae

        return load_sae(name, layer=layer, device=device)

    def saes(self) -> "list[NamedSae]":
        """The SAEs that can be named: those of the manifests in the current folder, and those that ship."""
        from steercache.api.saes import list_saes

        return list_saes()

    def encode(
        self,
        sae: "str | PathLike[str] | LoadedSae",
        *,
        run: str | Run | None = None,
        layer: int | None = None,
        device: str = "auto",
        allow_foreign: bool = False,
        progress: ProgressLike = None,
    ) -> "EncodedRun":
        """Encode the rows of a run with a sparse autoencoder (SAE), and keep what fires, sparse, in the cache.

        `sae` is a manifest's name or file, one layer of it as `NAME-l12`, a folder that sae-lens wrote, or an SAE in memory;
        `layer` chooses among the SAEs of a manifest. Without `run`, the newest complete text run. All stored rows of the SAE's
        site and layer are encoded; the result reads them (`.read(selection)`), and SQL has them as `feature_acts`. Safe to
        interrupt: calling it again continues. What is there already is not computed again, unless the run has another
        generation in force since. `allow_foreign` takes an SAE of another model or BOS convention, with a warning.

        Raises:
            NotFoundError: no such SAE or run, or the SAE's files are not on this machine. UsageError: the SAE does not fit the
            run. BusyError: another process encodes the run. BudgetError: the disk is full. MissingExtraError: no sae-lens.
        """
        from steercache.api.sae_encoding import encode

        with reporting(progress) as show:
            return encode(
                self._session,
                sae,
                _run_name(run),
                layer=layer,
                device=device,
                allow_foreign=allow_foreign,
                show=show,
            )

    def encoded(self, sae: str, *, run: str | Run | None = None) -> "EncodedRun":
        """A run's rows that were encoded with an SAE, by name, id or prefix of the SAE; sae-lens is not needed.

        Raises:
            NotFoundError: no run, or not this one, was encoded with it. QueryError: several were, and `run` is not given.
        """
        from steercache.api.sae_encoding import find_encoded

        return find_encoded(self._session.cache, sae, _run_name(run))

    def encodings(self) -> "list[EncodedRun]":
        """Every run that is encoded with an SAE."""
        from steercache.api.sae_encoding import encoded_runs

        return encoded_runs(self._session.cache)

    def sae_health(
        self,
        sae: "str | PathLike[str] | LoadedSae",
        *,
        run: str | Run | None = None,
        model: "str | LoadedModel | None" = None,
        layer: int | None = None,
        n_texts: int = 100,
        device: str = "auto",
        allow_foreign: bool = False,
        progress: ProgressLike = None,
    ) -> "Health":
        """How well an SAE describes the rows of a run, by kind of row (text, image, special; first positions apart).

        Explained variance, cosine, mean squared error, features that fire per row, dead and dense features, computed from the
        cached rows and kept beside the encoding. With `model`, the run's own, also the cross-entropy of the next token over
        the run's first `n_texts` texts with the reconstruction in the place of the layer's output, and the share of the loss
        that it recovers from zero ablation and from ablation by the mean.

        Raises:
            NotFoundError, MissingExtraError: as `encode`. UsageError: the SAE does not fit the run, or, with a model, the run
            has pictures or was traced with other weights.
        """
        from steercache.api.sae_encoding import sae_health

        with reporting(progress) as show:
            return sae_health(
                cast("Cache", self),
                sae,
                _run_name(run),
                model=model,
                layer=layer,
                n_texts=n_texts,
                device=device,
                allow_foreign=allow_foreign,
                show=show,
            )


def _run_name(run: str | Run | None) -> str | None:
    return None if run is None else str(run)
