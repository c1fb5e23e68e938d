"""The picture of a cached sample. A cache holds its digest, not its bytes: they are read again from its data set."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

from steercache.analysis.patches import PictureSample
from steercache.core.errors import DamagedError, NotFoundError, SteercacheError, UsageError
from steercache.core.ids import digest_bytes
from steercache.data import open_dataset
from steercache.manifests.dataset import DatasetManifest, HfSource
from steercache.manifests.load import find_manifest, read_manifest
from steercache.queries.session import Session

_HINT = (
    "run it in the folder of the trace's manifest, where its data sets are looked for, or name the file of the picture"
)


def picture_of(session: Session, sample: PictureSample, file: Path | None = None) -> bytes:
    """The bytes of a sample's picture: those of `file`, or of the data set that the run's manifest names.

    Data sets of one's own are looked for from the current folder: a run knows its manifest, not where that lay.

    Raises:
        NotFoundError: the data set or the row is not there; UsageError: several pictures; DamagedError: another picture.
    """
    data = file.read_bytes() if file is not None else _from_dataset(session, sample)
    if digest_bytes(data) != sample.image_digest:
        traced = f"row {sample.ordinal} of {sample.dataset}"
        raise DamagedError(
            "this is another picture than the one that was traced",
            place=str(file) if file is not None else sample.dataset,
            hint=f"name the file of the picture that {traced} had" if file is None else f"it was that of {traced}",
        )
    return data


def _from_dataset(session: Session, sample: PictureSample) -> bytes:
    manifest, base_dir = _dataset(session, sample)
    try:
        example = next(islice(iter(open_dataset(manifest, base_dir=base_dir)), sample.ordinal, None), None)
    except SteercacheError as error:
        raise NotFoundError(
            f"the data set {sample.dataset} cannot be read from here: {error.message}", hint=_HINT
        ) from error
    if example is None or not example.images:
        raise NotFoundError(f"{sample.dataset} has no picture in row {sample.ordinal} any more", hint=_HINT)
    if len(example.images) > 1:
        raise UsageError(f"the sample has {len(example.images)} pictures, and the map is of one")
    return example.images[0].load()


def _dataset(session: Session, sample: PictureSample) -> tuple[DatasetManifest, Path]:
    for named in session.cache.run_document(sample.run_id).manifest["datasets"]:
        if isinstance(named, dict) and named.get("name") == sample.dataset:
            return DatasetManifest.model_validate_json(json.dumps(_as_written(named))), Path()
        if named == sample.dataset:
            path = _found(named)
            found = read_manifest(path, kind="dataset")
            assert isinstance(found, DatasetManifest)
            return found, path.resolve().parent
    raise NotFoundError(f"the run's manifest names no data set {sample.dataset!r}", hint=_HINT)


def _found(name: str) -> Path:
    """The file of a data set's manifest. Raises NotFoundError with the way to it from here."""
    try:
        return find_manifest(name, kind="dataset", search=(Path(),))
    except NotFoundError as error:
        raise NotFoundError(error.message, place=error.place, hint=_HINT) from error


def _as_written(named: dict[str, Any]) -> dict[str, Any]:
    """A data set of a run's document without the split that stands there when none was given: given, it would be checked."""
    source = named["source"]
    if source["type"] != "hf" or source["split"] != HfSource.model_fields["split"].default:
        return named
    return {**named, "source": {key: value for key, value in source.items() if key != "split"}}
