"""What `Cache.encode`, `Cache.encoded` and `steercache sae` do: a run's rows as features of an SAE."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from steercache.api.progress import ProgressCallback
from steercache.cache.feature_files import Encoding, all_encodings
from steercache.cache.feature_rows import EncodedRows
from steercache.cache.handle import CacheFolder
from steercache.cache.remove import remove_encoding
from steercache.core.errors import NotFoundError, QueryError, UsageError
from steercache.core.features import FeatureActs
from steercache.core.ids import SHORT_ID, resolve_name
from steercache.core.saes import SaeSpec
from steercache.core.selection import Selection
from steercache.engines.work import ONE_HERE, EngineOptions
from steercache.queries.session import Session

if TYPE_CHECKING:
    from steercache.api.cache import Cache
    from steercache.models.spec import LoadedModel
    from steercache.sae.health import Health
    from steercache.sae.loaded import LoadedSae


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedRun:
    """A run's rows as features of one SAE, kept in the cache; `feature_acts` in SQL has the same.

    `n_rows` have features, `n_rows_new` of them were computed by this call in `seconds` (0 and 0.0 where nothing was).
    `n_entries` activations are not zero. `n_non_finite` rows hold an infinity or NaN and have no features. `lossy`: rows had
    lost precision when they were encoded.
    """

    sae: SaeSpec
    run_id: str
    site: str
    layer: int
    n_rows: int
    n_rows_of_run: int
    n_entries: int
    n_bytes: int
    n_non_finite: int
    lossy: bool
    n_rows_new: int = 0
    seconds: float = 0.0
    rows: EncodedRows = field(repr=False, compare=False)

    def read(self, rows: "Selection | npt.NDArray[Any] | Sequence[int]") -> FeatureActs:
        """Features of a selection's rows, or of rows of the run's arrays, sparse, in the given order.

        Raises:
            UsageError: the selection is of another run. NotFoundError: some rows have no features here.
            DamagedError: a file contradicts its record.
        """
        if isinstance(rows, Selection):
            if rows.run_id != self.run_id:
                raise UsageError(
                    f"the selection is of run {rows.run_id[:SHORT_ID]}, these features are of run {self.run_id[:SHORT_ID]}",
                    hint="encode the selection's run",
                )
            rows = rows.rows
        return self.rows.read(np.asarray(rows, dtype=np.int64))

    def feature(self, feature: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Rows in which a feature fires, ascending, and its activations there. Raises NotFoundError, DamagedError."""
        return self.rows.read_feature(feature)

    @property
    def l0(self) -> float:
        """Mean number of features that fire in a row."""
        return self.n_entries / self.n_rows if self.n_rows else 0.0


def encode(
    session: Session,
    sae: "str | PathLike[str] | LoadedSae",
    run: str | None,
    *,
    layer: int | None,
    device: str,
    allow_foreign: bool,
    engine: EngineOptions = ONE_HERE,
    on_note: Callable[[str], None] = lambda note: None,
    show: ProgressCallback,
) -> EncodedRun:
    """See `Cache.encode`."""
    from steercache.sae.encode import encode_run
    from steercache.sae.encode_workers import EncodingEngine
    from steercache.sae.loaded import LoadedSae

    cache, loaded = session.cache, load(sae, layer=layer, device=device)
    run_id = cache.resolve_run(run) if run is not None else session.newest_run()
    again = None if isinstance(sae, LoadedSae) else partial(load, sae, layer=layer, device=device)
    done = encode_run(
        cache,
        loaded,
        run_id,
        allow_foreign=allow_foreign,
        engine=EncodingEngine(options=engine, load=again, on_note=on_note),
        on_rows=lambda n, of: show("encoding rows", n, of),
    )
    return encoded_run(done.encoding, n_rows_new=done.n_rows_new, seconds=done.seconds)


def load(sae: "str | PathLike[str] | LoadedSae", *, layer: int | None, device: str) -> "LoadedSae":
    """An SAE in memory, on the device; `auto` is the first GPU, or the CPU. Raises as `steercache.sae.loading.load_sae`."""
    from steercache.models.load import resolve_device
    from steercache.sae.loaded import LoadedSae
    from steercache.sae.loading import load_sae

    if isinstance(sae, LoadedSae):
        return sae
    return load_sae(sae, layer=layer, device=str(resolve_device(device)))


def encoded_run(encoding: Encoding, *, n_rows_new: int = 0, seconds: float = 0.0) -> EncodedRun:
    """What the files of an encoding say."""
    document = encoding.document
    return EncodedRun(
        sae=document.sae,
        run_id=document.run_id,
        site=document.site,
        layer=document.layer,
        n_rows=encoding.n_rows,
        n_rows_of_run=encoding.n_rows_of_run,
        n_entries=encoding.n_entries,
        n_bytes=encoding.n_bytes,
        n_non_finite=sum(record.n_non_finite for record in encoding.fresh.values()),
        lossy=encoding.lossy,
        n_rows_new=n_rows_new,
        seconds=seconds,
        rows=EncodedRows(encoding),
    )


def encoded_runs(cache: CacheFolder) -> list[EncodedRun]:
    """Every encoding that can be read, by ids of SAE and run."""
    return [encoded_run(one) for one in all_encodings(cache.paths)[0]]


def find_encoded(cache: CacheFolder, sae: str, run: str | None) -> EncodedRun:
    """See `Cache.encoded`."""
    known = encoded_runs(cache)
    names = [(one.sae.sae_id, one.sae.name) for one in known]
    sae_id = resolve_name(sae, names, noun="encoding with an SAE", list_command="steercache sae list")
    run_id = None if run is None else cache.resolve_run(run)
    found = [one for one in known if one.sae.sae_id == sae_id and run_id in (None, one.run_id)]
    if not found:
        assert run_id is not None
        raise NotFoundError(
            f"the run {cache.name_of(run_id)!r} is not encoded with the SAE {sae!r}",
            hint="encode it: steercache sae encode SAE",
        )
    if len(found) > 1:
        shown = ", ".join(f"{cache.name_of(one.run_id)} ({one.run_id[:SHORT_ID]})" for one in found)
        raise QueryError(f"the SAE {sae!r} encoded several runs: {shown}", hint="give the run")
    return found[0]


def remove_encoded(cache: CacheFolder, sae: str, run: str | None) -> tuple[EncodedRun, int]:
    """Remove an encoding; returns what it was, and the bytes freed. Raises as `Cache.encoded`, and BusyError."""
    found = find_encoded(cache, sae, run)
    return found, remove_encoding(cache, found.sae.sae_id, found.run_id)


def sae_health(
    cache: "Cache",
    sae: "str | PathLike[str] | LoadedSae",
    run: str | None,
    *,
    model: "str | LoadedModel | None",
    layer: int | None,
    n_texts: int,
    device: str,
    allow_foreign: bool,
    show: ProgressCallback,
) -> "Health":
    """See `Cache.sae_health`."""
    from steercache.sae.health import measure_health, with_loss

    folder, loaded = cache.folder, load(sae, layer=layer, device=device)
    run_id = folder.resolve_run(run) if run is not None else cache.session.newest_run()
    health = measure_health(
        folder, loaded, run_id, allow_foreign=allow_foreign, on_rows=lambda n, of: show("measuring rows", n, of)
    )
    if model is None:
        return health
    from steercache.analysis.sae_loss import loss_recovered

    lm = cache.model(model, device=device) if isinstance(model, str) else model
    known = health.loss
    if known is not None and (known.model_fingerprint, known.n_texts_asked) == (lm.spec.fingerprint, n_texts):
        return health
    loss = loss_recovered(
        folder, loaded, run_id, lm, n_texts=n_texts, on_texts=lambda n, of: show("measuring the loss", n, of)
    )
    return with_loss(folder.paths.encoding(loaded.spec.sae_id, run_id), health, loss)
