"""The shape of a run on disk: which sites and layers, how rows are cut into shards and chunks."""

from dataclasses import asdict, dataclass
from typing import Literal

from steercache.core.ids import digest

Site = Literal[
    "resid_post", "resid_pre", "head_out", "attn_out", "mlp_out", "connector_out", "vision_out", "margin_grad"
]
DType = Literal["float32", "bfloat16", "float16"]
CodecName = Literal["raw", "blosc", "pcodec", "int8"]

BLOCK_SITES: tuple[Site, ...] = ("resid_post", "resid_pre", "head_out", "attn_out", "mlp_out")
ITEM_BYTES: dict[DType, int] = {"float32": 4, "bfloat16": 2, "float16": 2}
LOSSY_CODECS: frozenset[CodecName] = frozenset({"int8"})


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteLayout:
    """One array of a run: dims (layer, row, hidden). `layers` are block numbers, ascending; (-1,) where there is none."""

    site: Site
    layers: tuple[int, ...]
    width: int

    def layer_pos(self, layer: int) -> int:
        """Position of block `layer` on the array's first axis. Raises ValueError when it was not kept."""
        return self.layers.index(layer)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreLayout:
    """Arrays of one run; all share the row axis, cut into `n_shards` shards of `rows_per_shard` slots.

    A row's index is `shard_idx * rows_per_shard + slot`. Slots beyond a shard's last row are unused and read as NaN.
    `chunk_rows` divides `rows_per_shard`.
    """

    sites: tuple[SiteLayout, ...]
    dtype: DType
    n_shards: int
    rows_per_shard: int
    chunk_rows: int

    def __post_init__(self) -> None:
        if self.chunk_rows < 1 or self.rows_per_shard % self.chunk_rows:
            raise ValueError(f"chunk_rows {self.chunk_rows} does not divide rows_per_shard {self.rows_per_shard}")

    @property
    def n_slots(self) -> int:
        """Length of the row axis."""
        return self.n_shards * self.rows_per_shard

    @property
    def chunks_per_shard(self) -> int:
        """Inner chunks along the row axis of one shard."""
        return self.rows_per_shard // self.chunk_rows

    @property
    def row_bytes(self) -> int:
        """Bytes of one row over all sites and layers, uncompressed."""
        return sum(len(s.layers) * s.width for s in self.sites) * ITEM_BYTES[self.dtype]

    def site(self, name: str) -> SiteLayout:
        """The layout of one site. Raises KeyError when the run does not have it."""
        for site in self.sites:
            if site.site == name:
                return site
        raise KeyError(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """A committed file: path relative to the run's folder, size, CRC-32C of the whole and of each inner chunk in it."""

    path: str
    n_bytes: int
    crc32c: int
    chunk_crc32c: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NonFinite:
    """Rows of one site and layer that hold an infinity or NaN."""

    site: Site
    layer: int
    n_rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecError:
    """What a lossy codec did to rows of one site and layer.

    `n_rows` were compared: those with a finite value that is not zero. Of a row x that is read back as y the relative error is
    |x - y| / |x|, over its finite values; `max_abs` is the largest error of a single value.
    """

    site: Site
    layer: int
    n_rows: int
    mean_relative: float
    max_relative: float
    max_abs: float
    mean_cosine: float
    min_cosine: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRecord:
    """What `shards/<shard>.json` says: from the moment that this file has its name, the shard's rows exist.

    `non_finite` names the sites and layers with rows that are not finite; None in records from before they were counted.
    `computed_otherwise` says what the numerics of these rows differ in from the run's own, where a build admitted such workers.
    `codec_errors` says what a lossy codec did to every site and layer; () of exact rows, and in records of earlier versions.
    """

    shard_idx: int
    first_sample: int
    n_samples: int
    n_rows: int
    input_digest: str  # over the samples' ids, so that data changed between plan and trace is noticed
    files: tuple[FileRecord, ...]
    non_finite: tuple[NonFinite, ...] | None = None
    computed_otherwise: tuple[str, ...] = ()
    codec_errors: tuple[CodecError, ...] = ()

    @property
    def n_bytes(self) -> int:
        """Bytes of all files of the shard."""
        return sum(f.n_bytes for f in self.files)

    @property
    def n_non_finite(self) -> int | None:
        """Rows that are not finite, summed over sites and layers; None where they were not counted."""
        return None if self.non_finite is None else sum(part.n_rows for part in self.non_finite)

    def digest(self) -> str:
        """SHA-256 of what the record says. A count that was never taken is not part of it, nor what is seldom there: older
        records keep their digest."""
        said = {name: getattr(self, name) for name in self.__slots__}
        # not by `asdict`, which copies every checksum of every chunk
        said["files"] = [{name: getattr(file, name) for name in file.__slots__} for file in self.files]
        said["non_finite"] = None if self.non_finite is None else [asdict(part) for part in self.non_finite]
        if self.non_finite is None:
            del said["non_finite"]
        said["codec_errors"] = [asdict(part) for part in self.codec_errors]
        for name in ("computed_otherwise", "codec_errors"):
            if not said[name]:
                del said[name]
        return digest(said)
