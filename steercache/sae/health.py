"""How well an SAE describes the rows of a run, by kind of row: variance explained, cosine, how many features fire, which never.

Kinds are those of tokens (text, image, special, template). First positions stand apart, as the kind `first`: their activations
are massive, and most SAEs were trained without them. `all` is every other row.

Explained variance is 1 - sum ||x - r||^2 / sum ||x - mean||^2 for rows x and reconstructions r, the mean taken over the kind's
rows; it is 1 for a perfect SAE and 0 for one that says the mean of every row.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from steercache.cache.handle import CacheFolder
from steercache.cache.paths import EncodingPaths, RunPaths
from steercache.cache.remote import open_rows
from steercache.cache.source import ShardRecords, current_generation
from steercache.core.drawing.bars import bar_chart
from steercache.core.ids import SHORT_ID, canonical_json, digest
from steercache.core.notebook import notebook_html, notebook_table
from steercache.sae.fits_run import check_fits
from steercache.sae.loaded import LoadedSae
from steercache.sae.sparse import batch_rows
from steercache.sae.tensors import as_float32
from steercache.store.durable import make_folder, write_file_atomically

DENSE_SHARE: Final = 0.1
FIRST, ALL = "first", "all"
OnRows = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class KindHealth:
    """One kind of row. `mse` is the mean squared error of one value; `cosine` is of reconstruction and row, the mean over rows.

    `n_dead` features fire in no row of the kind, `n_dense` in more than a tenth of them. `n_non_finite` rows hold an infinity
    or NaN and count in nothing else. What needs rows that are not there is None.
    """

    kind: str
    n_rows: int
    n_non_finite: int
    explained_variance: float | None
    cosine: float | None
    mse: float | None
    l0_mean: float | None
    l0_median: float | None
    n_dead: int
    n_dense: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LossRecovered:
    """Cross-entropy of the next token, in nats, over the run's own texts: of the model as it is, with the layer's output
    replaced by its reconstruction, by zero, and by the mean row. First positions are left as they are in all of them.

    `recovered` is (ablated - reconstructed) / (ablated - clean), by zero and by the mean.
    """

    n_texts_asked: int
    n_texts: int
    n_tokens: int
    clean: float
    reconstructed: float
    zero: float
    mean: float
    model_fingerprint: str

    @property
    def recovered(self) -> float | None:
        """Share of the loss from zero ablation that the reconstruction gives back; None where zeros do no harm."""
        return _share(self.zero, self.reconstructed, self.clean)

    @property
    def recovered_from_mean(self) -> float | None:
        """The same from ablation by the mean row."""
        return _share(self.mean, self.reconstructed, self.clean)


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """An SAE on the rows of one run, by kind of row: first `all`, then each kind there is."""

    sae_id: str
    sae: str
    run_id: str
    site: str
    layer: int
    generation: str
    lossy: bool
    n_features: int
    kinds: tuple[KindHealth, ...]
    loss: LossRecovered | None = None

    def of(self, kind: str) -> KindHealth:
        """One kind's numbers. Raises KeyError where the run has no such rows."""
        for one in self.kinds:
            if one.kind == kind:
                return one
        raise KeyError(kind)

    def _repr_html_(self) -> str:
        """Explained variance by kind of row, and all numbers, for a notebook."""
        facts: list[tuple[str, object]] = [
            ("site", f"{self.site}, layer {self.layer}"),
            ("features", f"{self.n_features:,}"),
            ("run", self.run_id[:SHORT_ID]),
            ("loss recovered", None if self.loss is None else self.loss.recovered),
        ]
        shares = {one.kind: one.explained_variance for one in self.kinds if one.explained_variance is not None}
        columns = ("kind", "rows", "explained variance", "cosine", "mse", "mean L0", "dead", "dense")
        rows = [
            (k.kind, f"{k.n_rows:,}", k.explained_variance, k.cosine, k.mse, k.l0_mean, k.n_dead, k.n_dense)
            for k in self.kinds
        ]
        picture = bar_chart(shares, title="Explained variance") if shares else ""
        return notebook_html(f"SAE {self.sae}", facts, pictures=[picture], tables=[notebook_table(columns, rows)])

    def records(self) -> list[dict[str, Any]]:
        """One mapping per kind, for a data frame."""
        return [asdict(one) for one in self.kinds]


_HEALTH = TypeAdapter(Health)


def measure_health(
    cache: CacheFolder,
    sae: LoadedSae,
    run_id: str,
    *,
    allow_foreign: bool = False,
    on_rows: OnRows = lambda done, total: None,
) -> Health:
    """The health of an SAE on a run, computed from the cached rows in bounded memory, or read where it was computed before.

    Raises:
        UsageError: the SAE's activations are not those of the run. DamagedError: a file of the run contradicts its record.
    """
    spec, run = sae.spec, cache.run_paths(run_id)
    check_fits(spec, cache, run_id, allow_foreign=allow_foreign)
    assert spec.layer is not None  # or it would not fit
    generation = current_generation(run)
    records = ShardRecords(run, generation)
    source = digest([generation, *(record.digest() for record in records.values())])
    paths = cache.paths.encoding(spec.sae_id, run_id)
    known = read_health(paths, source=source)
    if known is not None:
        return known
    n_total, n_done = sum(record.n_rows for record in records.values()), 0
    sums: dict[str, _Sums] = {}
    lossy = False
    for shard_idx, record in records.items():
        kinds = kinds_of_rows(run, shard_idx, n_rows=record.n_rows, rows_per_shard=_rows_per_shard(cache, run_id))
        with open_rows(run, generation, {shard_idx: record}, side_by_side=False) as reader:
            lossy = reader.lossy
            layer_pos = reader.layout.site(spec.site).layer_pos(spec.layer)
            rows_nd = reader.shard_layer(spec.site, layer_pos, shard_idx)
            for first in range(0, len(rows_nd), batch_rows(spec.d_sae)):
                part = slice(first, first + batch_rows(spec.d_sae))
                _add(sums, sae, as_float32(rows_nd[part]), kinds[part])
                n_done += len(kinds[part])
                on_rows(n_done, n_total)
    whole = _Sums.of_all([one for kind, one in sums.items() if kind != FIRST], spec.d_in, spec.d_sae)
    found = Health(
        sae_id=spec.sae_id,
        sae=spec.name,
        run_id=run_id,
        site=spec.site,
        layer=spec.layer,
        generation=generation,
        lossy=lossy,
        n_features=spec.d_sae,
        kinds=(whole.result(ALL), *(sums[kind].result(kind) for kind in sorted(sums))),
    )
    write_health(paths, found, source=source)
    return found


def health_of_rows(sae: LoadedSae, row_blocks: Iterable[Any], *, kind: str) -> KindHealth:
    """The health of an SAE on rows that come as float32 tensors (n, d), under one name."""
    sums: dict[str, _Sums] = {}
    for block in row_blocks:
        for x in block.split(batch_rows(sae.spec.d_sae)):
            _add(sums, sae, x, np.full(len(x), kind))
    return sums.get(kind, _Sums(sae.spec.d_in, sae.spec.d_sae)).result(kind)


def kinds_of_rows(run: RunPaths, shard_idx: int, *, n_rows: int, rows_per_shard: int) -> npt.NDArray[np.str_]:
    """The kind of each row of a shard, (n,): `first` for position 0, else that of its token; of tokens that share a row, the
    first's."""
    table = pq.read_table(run.tokens(shard_idx).absolute(), columns=["row_idx", "position", "kind"])
    table = table.filter(table["row_idx"].is_valid())
    slot = table["row_idx"].to_numpy() - shard_idx * rows_per_shard
    kind = np.where(table["position"].to_numpy() == 0, FIRST, np.asarray(table["kind"].to_pylist(), dtype="U16"))
    found = np.full(n_rows, "text", dtype="U16")
    found[slot[::-1]] = kind[::-1]
    return found


def _rows_per_shard(cache: CacheFolder, run_id: str) -> int:
    return cache.run_document(run_id).layout.rows_per_shard


class _Sums:
    """What one kind of row comes to, in float64."""

    def __init__(self, d_in: int, n_features: int) -> None:
        self.n = self.n_non_finite = 0
        self.x = np.zeros(d_in)
        self.squares = self.errors = self.cosines = 0.0
        self.fires = np.zeros(n_features, dtype=np.int64)
        self.l0 = np.zeros(n_features + 1, dtype=np.int64)  # rows by how many features fire in them

    @classmethod
    def of_all(cls, parts: list["_Sums"], d_in: int, n_features: int) -> "_Sums":
        whole = cls(d_in, n_features)
        for part in parts:
            for name, value in vars(part).items():
                setattr(whole, name, getattr(whole, name) + value)
        return whole

    def add(self, x: Any, rebuilt: Any, features: Any) -> None:
        """Rows and reconstructions (n, d) in float64, features (n, s)."""
        fires = features != 0
        self.n += len(x)
        self.x += x.sum(0).numpy()
        self.squares += float((x * x).sum())
        self.errors += float(((x - rebuilt) ** 2).sum())
        norms = (x.norm(dim=1) * rebuilt.norm(dim=1)).clamp(min=1e-30)
        self.cosines += float(((x * rebuilt).sum(1) / norms).sum())
        self.fires += fires.sum(0).numpy()
        self.l0 += np.bincount(fires.sum(1).numpy(), minlength=len(self.l0))

    def result(self, kind: str) -> KindHealth:
        total = self.squares - float(self.x @ self.x) / max(self.n, 1)
        varies = self.n > 1 and total > 1e-12 * self.squares
        seen = np.cumsum(self.l0)
        middle = [int(np.searchsorted(seen, at, side="right")) for at in ((self.n - 1) // 2, self.n // 2)]
        return KindHealth(
            kind=kind,
            n_rows=self.n,
            n_non_finite=self.n_non_finite,
            explained_variance=1 - self.errors / total if varies else None,
            cosine=self.cosines / self.n if self.n else None,
            mse=self.errors / (self.n * len(self.x)) if self.n else None,
            l0_mean=float(self.l0 @ np.arange(len(self.l0))) / self.n if self.n else None,
            l0_median=sum(middle) / 2 if self.n else None,
            n_dead=int((self.fires == 0).sum()),
            n_dense=int((self.fires > DENSE_SHARE * self.n).sum()) if self.n else 0,
        )


def _add(sums: dict[str, _Sums], sae: LoadedSae, x: Any, kinds: npt.NDArray[np.str_]) -> None:
    import torch

    finite = torch.isfinite(x).all(dim=1)
    x = torch.where(finite[:, None], x, 0)
    with torch.no_grad():  # at once: an SAE that normalises rows keeps their statistics from encode to decode
        features = sae.module.encode(x.to(sae.module.device, sae.module.dtype))
        rebuilt = sae.module.decode(features).to("cpu", torch.float64)
        features = features.to("cpu")
    x = x.to(torch.float64)
    for kind in np.unique(kinds).tolist():
        one = sums.setdefault(kind, _Sums(x.shape[1], features.shape[1]))
        mine = torch.from_numpy(kinds == kind)
        one.n_non_finite += int((mine & ~finite).sum())
        mine &= finite
        one.add(x[mine], rebuilt[mine], features[mine])


def _share(ablated: float, reconstructed: float, clean: float) -> float | None:
    return (ablated - reconstructed) / (ablated - clean) if ablated > clean else None


def read_health(paths: EncodingPaths, *, source: str | None = None) -> Health | None:
    """What was measured before; None where nothing was, or of other rows than those of the digest `source`."""
    try:
        document = TypeAdapter(dict[str, Any]).validate_json(paths.health.read_bytes())
        known = _HEALTH.validate_json(canonical_json(document["health"]))
    except (FileNotFoundError, NotADirectoryError, ValidationError, KeyError, TypeError):
        return None  # a file that cannot be read is measured again
    return known if source in (None, document.get("source")) else None


def write_health(paths: EncodingPaths, health: Health, *, source: str) -> None:
    """Keep a measurement beside the encoding."""
    make_folder(paths.folder)
    data = canonical_json({"format": 1, "source": source, "health": asdict(health)})
    write_file_atomically(paths.health, data + b"\n")


def with_loss(paths: EncodingPaths, health: Health, loss: LossRecovered) -> Health:
    """`health` with the loss recovered, kept beside the encoding."""
    document = TypeAdapter(dict[str, Any]).validate_json(paths.health.read_bytes())
    found = replace(health, loss=loss)
    write_health(paths, found, source=str(document["source"]))
    return found


def token_ids_of_samples(run: RunPaths, shards: Mapping[int, Any], *, n_texts: int) -> Iterator[npt.NDArray[np.int64]]:
    """Token ids of the first `n_texts` samples of a run, one array per sample, in order."""
    n_left = n_texts
    for shard_idx in shards:
        table = pq.read_table(run.tokens(shard_idx).absolute(), columns=["sample_idx", "position", "token_id"])
        sample, position = table["sample_idx"].to_numpy(), table["position"].to_numpy()
        order = np.lexsort((position, sample))
        ids = table["token_id"].to_numpy()[order].astype(np.int64)
        starts = np.flatnonzero(np.diff(sample[order], prepend=-1))
        for one in np.split(ids, starts[1:]):
            if not n_left:
                return
            n_left -= 1
            yield one
