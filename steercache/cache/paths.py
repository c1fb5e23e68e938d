"""Every path below a cache root, in one place; ids are checked before they become part of one."""

import re
from dataclasses import dataclass
from pathlib import Path

from steercache.core.errors import NotFoundError
from steercache.core.excerpts import excerpt
from steercache.index.place import INDEX_NAME

FIRST_GENERATION = "g0001"
_HEX_ID = re.compile(r"[0-9a-f]{64}")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def checked_id(text: str) -> str:
    """`text` when it is a whole SHA-256 id. Raises NotFoundError for anything else: ids are looked up, never joined."""
    if not _HEX_ID.fullmatch(text):
        raise NotFoundError(f"{excerpt(text)} is not an id of this cache", hint="steercache cache status")
    return text


def checked_name(text: str) -> str:
    """`text` when it is a plain name (letters, digits, `._-`). Raises NotFoundError for anything else."""
    if not _PLAIN_NAME.fullmatch(text):
        raise NotFoundError(f"{excerpt(text)} is not a plain name (letters, digits, '.', '_', '-')")
    return text


@dataclass(frozen=True, slots=True)
class RunPaths:
    """The files of one run."""

    folder: Path

    @property
    def document(self) -> Path:
        return self.folder / "run.json"

    @property
    def current(self) -> Path:
        return self.folder / "CURRENT"

    @property
    def lock(self) -> Path:
        return self.folder / "LOCK"

    def generation(self, name: str) -> Path:
        """The Zarr group of one generation."""
        return self.folder / name

    def shards(self, generation: str) -> Path:
        """The folder of one generation's shard records."""
        return self.folder / "shards" / generation

    def shard(self, generation: str, shard_idx: int) -> Path:
        """The record whose rename commits a shard."""
        return self.shards(generation) / f"{shard_idx:05d}.json"

    def has_records(self) -> bool:
        """Whether any shard was ever committed here."""
        return next((self.folder / "shards").glob("g*/*.json"), None) is not None

    def tokens(self, shard_idx: int) -> Path:
        return self.folder / "rows" / f"{shard_idx:05d}.parquet"

    def samples(self, shard_idx: int) -> Path:
        return self.folder / "samples" / f"{shard_idx:05d}.parquet"


@dataclass(frozen=True, slots=True)
class EncodingPaths:
    """The files of one run encoded with one SAE."""

    folder: Path

    @property
    def document(self) -> Path:
        return self.folder / "encoding.json"

    @property
    def health(self) -> Path:
        return self.folder / "health.json"

    @property
    def lock(self) -> Path:
        return self.folder / "LOCK"

    @property
    def records(self) -> Path:
        """The folder of the records whose renames commit the features of shards."""
        return self.folder / "shards"

    def record(self, shard_idx: int) -> Path:
        return self.records / f"{shard_idx:05d}.json"

    def acts(self, shard_idx: int) -> Path:
        return self.folder / "acts" / f"{shard_idx:05d}.parquet"


@dataclass(frozen=True, slots=True)
class RootPaths:
    """The folders of one cache root."""

    root: Path

    @property
    def index(self) -> Path:
        return self.root / INDEX_NAME

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def vectors(self) -> Path:
        return self.root / "vectors"

    @property
    def sweeps(self) -> Path:
        return self.root / "sweeps"

    @property
    def annotations(self) -> Path:
        return self.root / "annotations"

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def row_norms(self) -> Path:
        """Folder of `<questions>.json`: norms that strengths are counted in. Part of what cells are: not to be deleted."""
        return self.root / "row_norms"

    @property
    def targets(self) -> Path:
        """Folder of `<target>.json`: which tokens targets written as SQL selected, by sample."""
        return self.root / "targets"

    @property
    def kl_strengths(self) -> Path:
        """Folder of `<curve>.json`: strengths at a given KL. Part of what cells are: not to be deleted."""
        return self.root / "kl_strengths"

    @property
    def calibration(self) -> Path:
        return self.root / "calibration.json"

    def all_runs(self) -> list[RunPaths]:
        """Every run that has begun, by id; what is being removed has another name."""
        return [run for run in self.run_folders() if run.document.exists()]

    def runs_without_document(self) -> list[RunPaths]:
        """Runs with committed shards whose `run.json` is gone: no run that never began, which has a folder and no record."""
        return [run for run in self.run_folders() if not run.document.exists() and run.has_records()]

    def run_folders(self) -> list["RunPaths"]:
        """Every folder that has the name of a run, whatever is in it."""
        if not self.runs.is_dir():
            return []
        return [RunPaths(folder) for folder in sorted(self.runs.iterdir()) if _HEX_ID.fullmatch(folder.name)]

    def sweep_folders(self) -> list[Path]:
        """Every folder that has the name of a sweep, by id; a copy under another name is none."""
        if not self.sweeps.is_dir():
            return []
        return [folder for folder in sorted(self.sweeps.iterdir()) if _HEX_ID.fullmatch(folder.name)]

    def run(self, run_id: str) -> RunPaths:
        return RunPaths(self.runs / checked_id(run_id))

    @property
    def saes(self) -> Path:
        """Folder of `<sae_id>/<run_id>/`: features of the runs' rows."""
        return self.root / "sae"

    @property
    def sae_folders(self) -> Path:
        """Folder of `<id>/`: SAEs as sae-lens writes them, that were pulled from elsewhere."""
        return self.saes / "folders"

    def encoding(self, sae_id: str, run_id: str) -> EncodingPaths:
        return EncodingPaths(self.saes / checked_id(sae_id) / checked_id(run_id))

    def encodings(self) -> list[EncodingPaths]:
        """Every encoding that has begun, by ids of SAE and run."""
        return [paths for paths in self.encoding_folders() if paths.document.exists()]

    def encoding_folders(self) -> list[EncodingPaths]:
        """Every folder that has the name of an encoding, whatever is in it."""
        return [
            EncodingPaths(folder)
            for sae in (sorted(self.saes.iterdir()) if self.saes.is_dir() else ())
            if _HEX_ID.fullmatch(sae.name) and sae.is_dir()
            for folder in sorted(sae.iterdir())
            if _HEX_ID.fullmatch(folder.name)
        ]

    def vector(self, vector_id: str) -> Path:
        return self.vectors / f"{checked_id(vector_id)}.safetensors"

    def sweep(self, sweep_id: str) -> Path:
        return self.sweeps / checked_id(sweep_id)

    def annotation(self, dataset: str, inputs_digest: str) -> Path:
        """Labels of one list of inputs; runs of several models over the same inputs share the file."""
        return self.annotations / checked_name(dataset) / f"{checked_id(inputs_digest)}.parquet"
