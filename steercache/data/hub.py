"""Data sets of the Hugging Face hub through the optional `datasets` library: by id, or from a local folder.

A local folder is either what `save_to_disk` wrote or has the hub's layout; it is read without asking the network, and
nothing outside it is read.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from steercache.core.errors import ManifestError, MissingExtraError, NotFoundError, Problem, SteercacheError
from steercache.core.excerpts import first_line_of
from steercache.data.arrow import BATCH_ROWS, batch_rows
from steercache.data.hub_folder import check_folder, check_hub_id, check_saved, is_saved
from steercache.data.rows import Rows, check_header
from steercache.manifests.dataset import HfSource


def hub_rows(source: HfSource, base_dir: Path, *, wanted: tuple[str, ...]) -> Rows:
    """Rows of one split, in the order they are stored in, without decoding pictures or sound.

    Raises:
        MissingExtraError: the `datasets` library is not installed.
        NotFoundError: there is no such data set, folder, configuration or split.
        ManifestError: a wanted column is missing.
    """
    file = f"{source.id or source.path}[{source.split}]"
    table = _opened(source, base_dir, file)
    names = table.column_names
    check_header(file, list(names) if names else [], wanted)
    batches = table.select_columns(list(wanted)).with_format("arrow").iter(batch_size=BATCH_ROWS)
    return batch_rows(_guarded(batches, file), file, wanted)


def _opened(source: HfSource, base_dir: Path, file: str) -> Any:
    try:
        import datasets
    except ImportError:
        raise MissingExtraError(
            "sources of type hf need the `datasets` library", hint="pip install 'steercache[data]'"
        ) from None
    folder = None if source.path is None else base_dir / source.path
    if folder is not None and not folder.is_dir():
        raise NotFoundError(
            "there is no such folder", place=str(folder), hint="paths are relative to the manifest's folder"
        )
    try:
        if folder is not None and is_saved(folder):
            check_saved(folder, file)
            saved = datasets.load_from_disk(str(folder))
            if isinstance(saved, datasets.DatasetDict):
                return _split(saved, source.split, file)
            _check_split(saved.split, source, file)
            return saved
        if folder is not None:
            return check_folder(datasets, folder, config=source.config, file=file).as_streaming_dataset(source.split)
        check_hub_id(datasets, str(source.id), config=source.config)
        return datasets.load_dataset(source.id, name=source.config, split=source.split, revision=source.revision)
    except SteercacheError:
        raise
    except Exception as error:  # of many libraries: what a bad folder, id or split raises is anybody's guess
        bring = f"hf download {source.id} --repo-type dataset --local-dir FOLDER, where there is a network; then `path: FOLDER`"
        hint = bring if source.id else "what `save_to_disk` wrote, or a folder of the hub's layout"
        raise NotFoundError(f"cannot be opened: {first_line_of(error)}", place=file, hint=hint) from None


def _split(saved: Any, split: str, file: str) -> Any:
    if split not in saved:
        raise NotFoundError(f"there is no split {split!r}; there are: {', '.join(saved)}", place=file)
    return saved[split]


def _check_split(saved: Any, source: HfSource, file: str) -> None:
    """Refuse a split that the manifest asks for and one saved data set is not; what it does not say passes as `train`."""
    has = "train" if saved is None else str(saved)
    if "split" in source.model_fields_set and source.split != has:
        what = "one data set that names no split" if saved is None else f"one data set, the split {has!r}"
        raise NotFoundError(
            f"there is no split {source.split!r}: this is {what}",
            place=file,
            hint="leave `split` out to read it as it is",
        )


def _guarded(batches: Iterator[Any], file: str) -> Iterator[Any]:
    """Batches, with whatever the library raises while reading made an error that names the data set."""
    try:
        yield from batches
    except GeneratorExit:
        raise
    except Exception as error:  # damaged files surface here, as errors of Arrow, fsspec, json or the library itself
        problem = Problem(loc="", kind="unreadable", message=first_line_of(error), file=file)
        raise ManifestError("this data set cannot be read", problems=[problem], place=file) from None
