"""`run.json`: what a run is, frozen when it begins, and the records that commit its shards."""

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from steercache.cache.conventions import Conventions
from steercache.cache.paths import RunPaths
from steercache.core.errors import DamagedError, NotFoundError, UsageError
from steercache.core.frame import ViewFrame
from steercache.core.ids import canonical_json, digest
from steercache.core.layout import ShardRecord, StoreLayout
from steercache.core.vectors import FittedOn
from steercache.models.heads import heads_of
from steercache.models.spec import TokenizerBundle
from steercache.store.documents import shard_record_from_json, shard_record_to_json
from steercache.store.durable import read_bytes, write_file_atomically
from steercache.trace.frame import frame_of

FORMAT = 1
_VERSIONED = ("steercache", "torch", "transformers", "nnsight", "tokenizers", "numpy", "zarr", "duckdb")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedShard:
    """A unit of work, commit and resume: whole samples in data-set order."""

    shard_idx: int
    first_sample: int
    n_samples: int
    n_rows: int
    n_tokens: int
    input_digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetInputs:
    """Which inputs of a data set a run holds: consecutive samples from `first_sample` on."""

    dataset: str
    inputs_digest: str
    first_sample: int
    n_samples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunModel:
    """The model as far as a cache needs to know it. `frame` is what its view shows of a picture; None for all of it.

    `kin` and `backbone_fingerprints` as in `ModelSpec`; () in documents of earlier versions. `n_heads` counts attention heads,
    None where it is not known.
    """

    name: str
    model_id: str
    fingerprint: str
    modality: str
    dtype: str
    hidden_size: int
    n_layers: int
    backbone: str | None = None
    frame: ViewFrame | None = None
    kin: tuple[str, ...] = ()
    backbone_fingerprints: tuple[str, ...] = ()
    n_heads: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """The model manifest that a run was built with, and the absolute folder that its paths start at. Not part of identity."""

    manifest: dict[str, Any]
    folder: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDocument:
    """Everything about a run but its rows, field by field what `run.json` holds. `run_id` is the digest of `identity`."""

    run_id: str
    name: str
    created_at: str  # ISO 8601, UTC
    model: RunModel
    datasets: tuple[DatasetInputs, ...]
    identity: dict[str, Any]
    numerics: dict[str, Any]
    manifest: dict[str, Any]
    layout: StoreLayout
    shards: tuple[PlannedShard, ...]
    replayable: bool
    parent_run_id: str | None = None
    backbone_run_id: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    model_source: ModelSource | None = None  # unknown in runs of older versions, and in runs of gradients
    format: int = FORMAT

    @property
    def n_rows(self) -> int:
        """Rows of the whole run, committed or not."""
        return sum(s.n_rows for s in self.shards)

    @property
    def n_samples(self) -> int:
        return sum(s.n_samples for s in self.shards)


def run_model(bundle: TokenizerBundle) -> RunModel:
    """What a run's document keeps of its model."""
    spec = bundle.spec
    return RunModel(
        name=spec.name,
        model_id=spec.model_id,
        fingerprint=spec.fingerprint,
        modality=spec.modality,
        dtype=spec.dtype,
        hidden_size=spec.hidden_size,
        n_layers=spec.n_layers,
        backbone=spec.backbone,
        frame=frame_of(bundle),
        kin=spec.kin,
        backbone_fingerprints=spec.backbone_fingerprints,
        n_heads=_n_heads(bundle.config),
    )


def _n_heads(config: Any) -> int | None:
    try:
        return heads_of(config).n
    except UsageError:
        return None


def fitted_on(model: RunModel, conventions: Conventions = (None, None)) -> FittedOn:
    """A run's model, as vectors fitted on its rows name it, with how its prompts begin."""
    bos, chat = conventions
    return FittedOn(name=model.name, fingerprint=model.fingerprint, modality=model.modality, bos=bos, chat=chat)


def run_id_of(identity: Mapping[str, Any]) -> str:
    """The id of a run: SHA-256 of what reaches the model and what is kept."""
    return digest(identity)


def shares_rows(document: RunDocument) -> bool:
    """Whether tokens of several samples may have one row (`share_prefix`)."""
    return bool(document.identity.get("kept", {}).get("share_prefix", False))


def installed_versions() -> dict[str, str]:
    """Versions of the libraries that could change a value or a file."""
    found = {"python": platform.python_version()}
    for package in _VERSIONED:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


_RUN = TypeAdapter(RunDocument)
_VERIFY = "steercache cache verify"


def write_run_document(path: Path, document: RunDocument) -> None:
    """Write `run.json` durably and atomically."""
    write_file_atomically(path, run_document_bytes(document))


def run_document_bytes(document: RunDocument) -> bytes:
    """What `run.json` holds."""
    return canonical_json(asdict(document)) + b"\n"


def read_run_document(path: Path) -> RunDocument:
    """Read `run.json`.

    Raises:
        NotFoundError: there is none. DamagedError: as `parse_run_document`.
    """
    return parse_run_document(_bytes(path), str(path))


def parse_run_document(data: bytes, place: str) -> RunDocument:
    """A run's document from the bytes of `run.json`.

    Raises:
        DamagedError: it is not a run document of a format that this version reads, or its id is not that of its identity.
    """
    try:
        document = _RUN.validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = f"{'.'.join(map(str, first['loc']))}: " if first["loc"] else ""
        raise DamagedError(f"not readable: {where}{first['msg']}", place=place, hint=_VERIFY) from error
    if document.format > FORMAT:
        raise DamagedError(
            f"format {document.format} is newer than this steercache reads ({FORMAT})",
            place=place,
            hint="pip install --upgrade steercache",
        )
    if run_id_of(document.identity) != document.run_id:
        raise DamagedError("the run's id does not match its identity", place=place, hint=_VERIFY)
    return document


def write_shard_record(path: Path, record: ShardRecord) -> None:
    """Commit a shard: the rename inside makes its rows exist."""
    write_file_atomically(path, canonical_json(shard_record_to_json(record)) + b"\n")


def read_shard_record(path: Path) -> ShardRecord:
    """Read a shard's record. Raises NotFoundError or DamagedError."""
    return parse_shard_record(_bytes(path), str(path))


def parse_shard_record(data: bytes, place: str) -> ShardRecord:
    """A shard's record from the bytes of its file. Raises DamagedError."""
    try:
        document = json.loads(data)
    except ValueError as error:
        raise DamagedError(f"not JSON: {error}", place=place, hint=_VERIFY) from error
    return shard_record_from_json(document, place)


def check_that_the_run_is_seen(paths: RunPaths, run_id: str) -> None:
    """Raises NotFoundError where this process's files below the root are not the coordinator's."""
    try:
        seen = read_run_document(paths.document).run_id
    except NotFoundError:
        seen = None
    if seen != run_id:
        raise NotFoundError(
            "this node does not see the run that it is to write",
            place=str(paths.folder),
            hint="put the cache on a file system that all nodes share, under the same path",
        )


def _bytes(path: Path) -> bytes:
    try:
        return read_bytes(path)
    except FileNotFoundError as error:
        raise NotFoundError(f"{path.name} is missing", place=str(path), hint=_VERIFY) from error
