"""Files of an encoding, a run's rows as features of one SAE: what it is, and the records that commit it shard by shard.

`sae/<sae_id>/<run_id>/` holds `encoding.json`, written first, `acts/<shard>.parquet`, and `shards/<shard>.json`, whose rename
makes the features of a shard exist. A record names the generation and the digest of the shard record that the features were
computed from: when the run has another one in force, the features are stale, and the next encoding computes them again.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from steercache.cache.documents import read_run_document
from steercache.cache.paths import EncodingPaths, RootPaths
from steercache.cache.source import ShardRecords, current_generation
from steercache.core.errors import DamagedError, NotFoundError, UsageError
from steercache.core.ids import canonical_json
from steercache.core.layout import FileRecord
from steercache.core.saes import SaeSpec
from steercache.store.durable import write_file_atomically

FORMAT = 1
_AGAIN = "encode the run again: that computes what is missing or damaged"


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodingDocument:
    """`encoding.json`: which SAE encoded which rows. `versions` are of the libraries that computed."""

    sae: SaeSpec
    run_id: str
    site: str
    layer: int
    versions: Mapping[str, str] = field(default_factory=dict)
    format: int = FORMAT


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureShard:
    """The record of one shard's features. `lossy`: its rows had lost precision when they were encoded.

    `n_non_finite` rows held an infinity or NaN, and have no features.
    """

    shard_idx: int
    generation: str
    source_digest: str
    lossy: bool
    n_rows: int
    n_non_finite: int
    n_entries: int
    file: FileRecord

    @property
    def n_bytes(self) -> int:
        """Bytes of its Parquet file."""
        return self.file.n_bytes


_DOCUMENT, _SHARD = TypeAdapter(EncodingDocument), TypeAdapter(FeatureShard)
_T = TypeVar("_T")


def write_encoding_document(paths: EncodingPaths, document: EncodingDocument) -> None:
    """Write `encoding.json` durably and atomically."""
    write_file_atomically(paths.document, canonical_json({**asdict(document), "sae": document.sae.record()}) + b"\n")


def read_encoding_document(paths: EncodingPaths) -> EncodingDocument:
    """What the encoding is. Raises NotFoundError, DamagedError."""
    document = _read(_DOCUMENT, paths.document)
    if document.format > FORMAT:
        raise DamagedError(
            f"format {document.format} is newer than this steercache reads ({FORMAT})",
            place=str(paths.document),
            hint="pip install --upgrade steercache",
        )
    if (document.sae.sae_id, document.run_id) != (paths.folder.parent.name, paths.folder.name):
        raise DamagedError("it names another SAE or run than its folder", place=str(paths.document), hint=_AGAIN)
    return document


def write_feature_shard(paths: EncodingPaths, record: FeatureShard) -> None:
    """Commit the features of a shard: the rename inside makes them exist."""
    write_file_atomically(paths.record(record.shard_idx), canonical_json(asdict(record)) + b"\n")


def feature_shards(paths: EncodingPaths) -> tuple[dict[int, FeatureShard], dict[int, DamagedError]]:
    """Records of the committed shards, ascending, and what is wrong with those that cannot be read, by shard."""
    records: dict[int, FeatureShard] = {}
    unreadable: dict[int, DamagedError] = {}
    for path in sorted(paths.records.glob("[0-9]*.json")) if paths.records.is_dir() else ():
        shard_idx = int(path.stem) if path.stem.isdigit() else -1
        try:
            record = _read(_SHARD, path)
            if record.shard_idx != shard_idx or record.file.path != f"acts/{path.stem}.parquet":
                raise DamagedError("it is the record of another shard", place=str(path), hint=_AGAIN)
            records[shard_idx] = record
        except DamagedError as error:
            unreadable[shard_idx] = error
        except NotFoundError:
            continue  # removed since it was listed
    return records, unreadable


def _read(kind: "TypeAdapter[_T]", path: Path) -> _T:
    try:
        return kind.validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise NotFoundError(f"{path.name} is missing", place=str(path), hint=_AGAIN) from error
    except (ValidationError, ValueError) as error:
        first = error.errors(include_url=False)[0]["msg"] if isinstance(error, ValidationError) else error
        raise DamagedError(f"not readable: {first}", place=str(path), hint=_AGAIN) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """One encoding as its files say. `fresh` shards are of the rows that the run has in force; `stale` ones are not, and
    `missing` ones are committed in the run and have no features."""

    paths: EncodingPaths
    document: EncodingDocument
    generation: str
    rows_per_shard: int
    fresh: Mapping[int, FeatureShard]
    stale: Mapping[int, FeatureShard]
    missing: tuple[int, ...]
    n_rows_of_run: int

    @property
    def complete(self) -> bool:
        """Whether every committed shard of the run has features of the rows in force."""
        return not self.missing and not self.stale

    @property
    def n_rows(self) -> int:
        """Rows whose features are there."""
        return sum(record.n_rows for record in self.fresh.values())

    @property
    def n_entries(self) -> int:
        """Activations that are not zero."""
        return sum(record.n_entries for record in self.fresh.values())

    @property
    def n_bytes(self) -> int:
        """Bytes of the Parquet files, stale ones included."""
        return sum(record.n_bytes for part in (self.fresh, self.stale) for record in part.values())

    @property
    def lossy(self) -> bool:
        """Whether some features are of rows that had lost precision."""
        return any(record.lossy for record in self.fresh.values())


def open_encoding(roots: RootPaths, sae_id: str, run_id: str) -> Encoding:
    """One encoding, its records compared with the run's.

    Raises:
        NotFoundError: the run was not encoded with this SAE, or is gone. DamagedError: a document cannot be read.
    """
    return encoding_at(roots, roots.encoding(sae_id, run_id))


def encoding_at(roots: RootPaths, paths: EncodingPaths) -> Encoding:
    """As `open_encoding`, by the encoding's folder. A record that cannot be read, or whose file is missing or short, counts as
    missing: the next encoding makes it again."""
    document = read_encoding_document(paths)
    run = roots.run(document.run_id)
    if not run.folder.is_dir():
        raise NotFoundError("the run that was encoded is gone", place=str(run.folder))
    generation = current_generation(run)
    records, _ = feature_shards(paths)
    fresh, stale, missing, n_rows = {}, {}, [], 0
    for shard_idx, source in ShardRecords(run, generation).items():
        n_rows += source.n_rows
        record = records.get(shard_idx)
        if record is None or not _is_there(paths, record):
            missing.append(shard_idx)
        elif (record.generation, record.source_digest) == (generation, source.digest()):
            fresh[shard_idx] = record
        else:
            stale[shard_idx] = record
    stale |= {idx: record for idx, record in records.items() if idx not in fresh and idx not in missing}
    return Encoding(
        paths=paths,
        document=document,
        generation=generation,
        rows_per_shard=rows_per_shard_of(roots, document.run_id),
        fresh=fresh,
        stale=stale,
        missing=tuple(missing),
        n_rows_of_run=n_rows,
    )


def _is_there(paths: EncodingPaths, record: FeatureShard) -> bool:
    try:
        return (paths.folder / record.file.path).stat().st_size == record.file.n_bytes
    except FileNotFoundError:
        return False


def rows_per_shard_of(roots: RootPaths, run_id: str) -> int:
    """Row slots of a shard of a run: row r lies in shard r // rows_per_shard."""
    return read_run_document(roots.run(run_id).document).layout.rows_per_shard


def all_encodings(roots: RootPaths) -> tuple[list[Encoding], list[DamagedError]]:
    """Every encoding whose run is there, and what is wrong with those that cannot be read."""
    found, damaged = [], []
    for paths in roots.encodings():
        try:
            found.append(encoding_at(roots, paths))
        except DamagedError as error:
            damaged.append(error)
        except NotFoundError:
            continue  # its run is gone: for gc
    return found, damaged


def begin_encoding(paths: EncodingPaths, document: EncodingDocument) -> EncodingDocument:
    """The document in force: the one that is there, or `document`, written now. The caller holds the encoding's lock.

    Raises:
        UsageError: the run was encoded with this SAE at another site or layer. DamagedError: the document cannot be read.
    """
    if paths.document.exists():
        known = read_encoding_document(paths)
        if (known.site, known.layer) != (document.site, document.layer):
            raise UsageError(
                f"the run is encoded with this SAE at {known.site} of layer {known.layer}, not of layer {document.layer}",
                place=str(paths.folder),
                hint="remove that encoding first",
            )
        if known.sae.name == document.sae.name:
            return known
    write_encoding_document(paths, document)
    return document
