"""The safetensors files that transformers reads for a checkpoint folder, or an error where that is not certain."""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final

from steercache.core.errors import DamagedError, ManifestError, NotFoundError
from steercache.models.fingerprint import tensor_index

SINGLE: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
_PICKLES: Final = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_DISTRIBUTED: Final = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")  # transformers prefers these
_FETCH: Final = "fetch the model again"
_SAVE_AGAIN: Final = "load the weights you mean with transformers and `save_pretrained` them into a new folder"


def weight_files(folder: Path, config: Mapping[str, Any]) -> tuple[Path, ...]:
    """The files that transformers loads: the single one, or those that the index names, also in subfolders.

    Raises:
        ManifestError: the weights are pickled, or the folder holds several sets of weights.
        DamagedError: files are missing, or the index cannot be followed.
    """
    single, index = folder / SINGLE, folder / INDEX
    _refuse_ambiguous(folder, config)
    if index.is_file():
        return _indexed(folder, index)
    if single.is_file():
        return (single,)
    if any(True for pattern in _PICKLES for _ in folder.glob(pattern)):
        raise ManifestError(
            "its weights are pickled, and unpickling runs code; only safetensors are loaded",
            place=str(folder),
            hint="another revision may hold safetensors (on the hub often `refs/pr/...`), or convert it where you trust it",
        )
    raise DamagedError("there is no model.safetensors in it", place=str(folder), hint=_FETCH)


def indexed_names(index: Path) -> tuple[str, ...]:
    """The file names in an index's `weight_map`, sorted, relative to the index's folder.

    Raises:
        DamagedError: the index is unreadable, or names a file outside its folder.
    """
    named = read_json(index).get("weight_map")
    if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()):
        raise DamagedError("has no `weight_map`", place=str(index), hint=_FETCH)
    names = sorted(set(named.values()))
    outside = [name for name in names if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts]
    if outside:
        raise DamagedError(f"names weights outside its folder: {listed(outside)}", place=str(index), hint=_FETCH)
    return tuple(names)


def read_json(path: Path, *, missing: str = "is missing") -> dict[str, Any]:
    """A JSON object of a checkpoint folder.

    Raises:
        NotFoundError: no such file; `missing` says so. DamagedError: it cannot be read, or is not an object.
    """
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise NotFoundError(missing, place=str(path.parent), hint="mend `source` in the model manifest") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedError(f"cannot be read: {error}", place=str(path), hint=_FETCH) from error
    if not isinstance(document, dict):
        raise DamagedError("is not a JSON object", place=str(path), hint=_FETCH)
    return document


def tensors_of(files: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """The headers of several files as one: tensor name to dtype, shape and data_offsets.

    Raises:
        DamagedError: two files hold a tensor of the same name (the loader takes one of them), or a header is broken.
    """
    found: dict[str, dict[str, Any]] = {}
    holder: dict[str, Path] = {}
    for file in files:
        for name, entry in tensor_index(file).items():
            if name in found:
                raise DamagedError(
                    f"the tensor {name} is in {holder[name].name} and in {file.name}",
                    place=str(file.parent),
                    hint=_SAVE_AGAIN,
                )
            found[name], holder[name] = entry, file
    return found


def listed(names: Iterable[str], *, n_shown: int = 3) -> str:
    """The first names, and how many more there are."""
    some = sorted(names)
    rest = f" and {len(some) - n_shown} more" if len(some) > n_shown else ""
    return ", ".join(some[:n_shown]) + rest


def _refuse_ambiguous(folder: Path, config: Mapping[str, Any]) -> None:
    """Raises ManifestError where it depends on the reader which weights are the model's."""
    if "transformers_weights" in config:
        raise ManifestError(
            f"its config.json names other weights (`transformers_weights`: {config['transformers_weights']!r})",
            place=str(folder),
            hint=_SAVE_AGAIN,
        )
    several = [name for name in (SINGLE, INDEX) if (folder / name).is_file()]
    several += sorted(path.name for path in folder.glob("shard-*.safetensors") if _DISTRIBUTED.fullmatch(path.name))
    if len(several) > 1 or (several and several[0] not in (SINGLE, INDEX)):
        raise ManifestError(
            f"it is not clear which weights are the model's: the folder holds {listed(several)}",
            place=str(folder),
            hint=f"remove what is not the model, or {_SAVE_AGAIN}",
        )


def _indexed(folder: Path, index: Path) -> tuple[Path, ...]:
    names = indexed_names(index)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise DamagedError(f"weights are missing: {listed(missing, n_shown=5)}", place=str(folder), hint=_FETCH)
    return tuple(folder / name for name in names)
