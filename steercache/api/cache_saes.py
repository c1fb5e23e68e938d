"""Sparse autoencoders."""

from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from steercache.api.cache_core import CacheCore
from steercache.api.progress import ProgressLike, reporting
from steercache.api.runs import Run
from steercache.core.trials import Target
from steercache.core.vectors import SteeringVector
from steercache.engines.work import EngineName, EngineOptions

if TYPE_CHECKING:
    from steercache.api.cache import Cache
    from steercache.api.evaluating import BenchmarkLike
    from steercache.api.feature_screening import FeatureReport, SaeLike
    from steercache.api.sae_encoding import EncodedRun
    from steercache.api.sae_training import TrainedSae
    from steercache.api.saes import NamedSae
    from steercache.manifests.sae import SaeManifest
    from steercache.models.spec import LoadedModel
    from steercache.sae.health import Health
    from steercache.sae.loaded import LoadedSae
    from steercache.sae.training_settings import TrainingSettings


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

    def train_sae(
        self,
        run: str | Run,
        *,
        layer: int,
        out: str | PathLike[str],
        settings: "TrainingSettings | None" = None,
        kinds: Sequence[str] = ("text", "image"),
        device: str = "cpu",
        progress: ProgressLike = None,
    ) -> "TrainedSae":
        """Train a sparse autoencoder on the output of block `layer` in a run, with sae-lens' trainer, into the folder `out`.

        Rows come shuffled over the whole run, in float32, without position 0 and without tokens of other `kinds` (`special` and
        `template` are the others). Stopped at any time and called again, it goes on from its last checkpoint and ends with the
        same bytes. The folder loads by sae-lens and names model, hook and run; `health` of the result is measured on samples
        that were held out. `settings` is a `steercache.TrainingSettings` (None: 8 features per hidden value, BatchTopK, k 32).

        Raises:
            NotFoundError: no such run, layer or rows. UsageError: too few rows, or `out` holds something else.
            BusyError: another process trains into `out`. MissingExtraError: sae-lens is not installed.
        """
        from steercache.api.sae_training import train
        from steercache.sae.training_settings import TrainingSettings

        chosen = TrainingSettings() if settings is None else settings
        return train(
            self._session,
            str(run),
            layer=layer,
            out=out,
            settings=chosen,
            kinds=kinds,
            device=device,
            progress=progress,
        )

    def encode(
        self,
        sae: "str | PathLike[str] | LoadedSae",
        *,
        run: str | Run | None = None,
        layer: int | None = None,
        device: str = "auto",
        allow_foreign: bool = False,
        engine: EngineName = "local",
        workers: int = 1,
        address: str | None = None,
        cpus_per_worker: float = 1.0,
        gpus_per_worker: float = 0.0,
        progress: ProgressLike = None,
        on_note: Callable[[str], None] | None = None,
    ) -> "EncodedRun":
        """Encode the rows of a run with a sparse autoencoder (SAE), and keep what fires, sparse, in the cache.

        `sae` is a manifest's name or file, one layer of it as `NAME-l12`, a folder that sae-lens wrote, or an SAE in memory;
        `layer` chooses among the SAEs of a manifest. Without `run`, the newest complete text run. All stored rows of the SAE's
        site and layer are encoded; the result reads them (`.read(selection)`), and SQL has them as `feature_acts`. Safe to
        interrupt: calling it again continues. What is there already is not computed again, unless the run has another
        generation in force since. `allow_foreign` takes an SAE of another model or BOS convention, with a warning. `workers`
        processes encode shards side by side, on the `engine` "local" or "ray" (as in `build`); each loads the SAE itself. One
        that computes other last bits is left out with a note (`on_note`).

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
                engine=EngineOptions(
                    name=engine,
                    workers=workers,
                    address=address,
                    cpus_per_worker=cpus_per_worker,
                    gpus_per_worker=gpus_per_worker,
                ),
                on_note=on_note or (lambda note: None),
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

    def feature_vector(
        self, sae: "SaeLike", feature: int | None = None, *, concept: str | None = None, layer: int | None = None
    ) -> SteeringVector:
        """The decoder row of one feature of an SAE at unit length, as a vector of the SAE's layer; it is saved.

        Without `feature`, the one that fits of the cache picked for `concept`: of those with the verdict yes, else of all, the
        best by rank. `layer` chooses among the SAEs of a manifest. The vector's model is that of a run that was encoded or
        fitted with the SAE; without one its origin is unknown, as `evaluate` and others say.

        Raises:
            UsageError: no such feature, or none was picked for the concept. NotFoundError: no such SAE.
        """
        from steercache.api.sae_features import vector_of_feature

        return vector_of_feature(self._session, sae, feature, concept=concept, layer=layer)

    def screen_features(
        self,
        model: str,
        benchmark: "BenchmarkLike",
        *,
        sae: "SaeLike",
        layers: int | Sequence[int] = (),
        target: Target | str | None = None,
        step: float = 0.25,
        top: int = 10,
        concept: str | None = None,
        n: int | None = None,
        exact: int = 0,
        live: str | Run | None = None,
        seed: int = 0,
        allow_foreign: bool = False,
        gradients: str | None = None,
        force: bool = False,
        device: str = "auto",
        dtype: str = "auto",
        folder: str | PathLike[str] | None = None,
        task: str | None = None,
        rule: Literal["grouped", "paper"] = "grouped",
        form: Literal["letter", "number", "word"] = "letter",
        progress: ProgressLike = None,
    ) -> "FeatureReport":
        """Predict what each feature of an SAE does to a task when its decoder row is added or subtracted, from gradients.

        `sae` is a manifest with one SAE per layer (all of them, or `layers`), its name or file, `NAME-l12`, a folder, or an SAE
        in memory. Rows have unit length and the strength `step`, in median norms of the steered rows. Gradients over the search
        split are recorded once and kept; from then on no model is loaded. `found.best(10)` are the best features by predicted
        accuracy, each with the concepts for which a fit in the cache picked it by sentences (`picked`), and with a verdict yes
        (`verified`); `found.overlaps` compares the `top` best with both sets, of one `concept` or of all.

        `exact` runs so many of the best on the test split, each added or subtracted as predicted, and as many random features
        at the same strengths: `found.exact.rows` has predicted beside exact. Random ones are live on the run `live` (encoded if
        it is not yet; None: one that is encoded already), of the nearest firing rates, drawn by `seed`. `n` is per split.

        Raises:
            UsageError: an SAE that does not fit the model; stale gradients; an unknown benchmark or task. NotFoundError: a
            model, SAE, run or file is missing. PartlyFailedError: no question can be encoded.
        """
        from steercache.api.feature_screening import FeatureRequest, screen_sae_features

        request = FeatureRequest(
            sae=sae,
            layers=(layers,) if isinstance(layers, int) else tuple(layers),
            target=target,
            step=step,
            top=top,
            concept=concept,
            n=n,
            exact=exact,
            live=_run_name(live),
            seed=seed,
            allow_foreign=allow_foreign,
            gradients=gradients,
            force=force,
        )
        return screen_sae_features(
            self._session,
            model,
            benchmark,
            request,
            device=device,
            dtype=dtype,
            task=task,
            rule=rule,
            form=form,
            folder=None if folder is None else Path(folder),
            progress=progress,
        )


def _run_name(run: str | Run | None) -> str | None:
    return None if run is None else str(run)
