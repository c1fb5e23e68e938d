"""The picture of a cached sample. A cache holds its digest, not its bytes: they are read again from its data set."""

import json
from itertools import islice
from pathlib import Path

from steercache.core.errors import DamagedError, NotFoundError, SteercacheError, UsageError
from steercache.core.ids import digest_bytes
from steercache.data import open_dataset
from steercache.evals.paper.patches import Sample
from steercache.manifests.dataset import DatasetManifest
from steercache.manifests.load import find_manifest, read_manifest
from steercache.queries.session import Session

_HINT = "--picture FILE names it"


def picture_of(session: Session, sample: Sample, file: Path | None = None) -> bytes:
    """The bytes of a sample's picture: those of `file`, or of the data set that the run's manifest names.

    Data sets written out inside a trace are looked for from the current folder.

    Raises:
        NotFoundError: the data set or the row is not there; UsageError: several pictures; DamagedError: another picture.
    """
    data = file.read_bytes() if file is not None else _from_dataset(session, sample)
    if digest_bytes(data) != sample.image_digest:
        place = str(file) if file is not None else sample.dataset
        raise DamagedError("this is another picture than the one that was traced", place=place, hint=_HINT)
    return data


def _from_dataset(session: Session, sample: Sample) -> bytes:
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


def _dataset(session: Session, sample: Sample) -> tuple[DatasetManifest, Path]:
    for named in session.cache.run_document(sample.run_id).manifest["datasets"]:
        if isinstance(named, dict) and named.get("name") == sample.dataset:
            return DatasetManifest.model_validate_json(json.dumps(named)), Path()
        if named == sample.dataset:
            path = find_manifest(named, kind="dataset", search=(Path(),))
            found = read_manifest(path, kind="dataset")
            assert isinstance(found, DatasetManifest)
            return found, path.resolve().parent
    raise NotFoundError(f"the run's manifest names no data set {sample.dataset!r}", hint=_HINT)
