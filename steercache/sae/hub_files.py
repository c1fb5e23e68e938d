"""sae-lens' loaders on files of this machine: the hub's cache first, no code inside weights.

sae-lens asks the network for the newest commit of a file that is in the cache, and its loader for Gemma Scope 2 for the shapes
of its tensors. While `hub_files` is open, a file that is in the cache is read without the network; one that is not is fetched
into the cache, as a model's are, unless `HF_HUB_OFFLINE` forbids it. What the loaders unpickle (`.pt` files) is restricted to
tensors, whatever the environment says.
"""

import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from steercache.core.errors import DamagedError
from steercache.sae.memory import refuse_too_large

_lock = threading.RLock()
WEIGHTS = (".safetensors", ".npz", ".pt", ".pth")
CONFIGS = (".json", ".yaml")
MAX_CONFIG_BYTES = 16 * 2**20


@dataclass(slots=True)
class ReadFiles:
    """The files that the loaders asked for."""

    paths: list[Path] = field(default_factory=list)

    @property
    def revision(self) -> str | None:
        """The commit that the hub's cache has the files of."""
        parts = [path.parts for path in self.paths]
        return next((p[p.index("snapshots") + 1] for p in parts if "snapshots" in p), None)


class _RestrictedTorch:
    """torch, but `load` takes tensors only: nothing in the file is run."""

    def __init__(self, torch: Any) -> None:
        self._torch = torch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._torch, name)

    def load(self, file: Any, *, map_location: Any = None) -> Any:
        return self._torch.load(file, map_location=map_location, weights_only=True)


@contextmanager
def hub_files(*, revision: str | None = None) -> Iterator[ReadFiles]:
    """While the block runs, sae-lens' loaders read files through the hub's cache, at `revision` of a repository; one thread at
    a time.

    A file that is neither there nor can be fetched raises huggingface_hub's errors inside, one that does not fit into memory
    BudgetError.
    """
    from huggingface_hub.errors import LocalEntryNotFoundError
    from sae_lens.loading import pretrained_sae_loaders as loaders

    read = ReadFiles()
    download = loaders.hf_hub_download

    def cached(repo_id: str, filename: str, *, subfolder: str | None = None, **ignored: Any) -> str:
        asked = ignored.get("revision") or revision
        where = {"subfolder": subfolder, "revision": asked}
        try:
            path: str = download(repo_id, filename, **where, local_files_only=True)
        except LocalEntryNotFoundError:
            path = download(repo_id, filename, **where)
        read.paths.append(Path(path))
        refuse_large_file(Path(path))
        return path

    def shapes(repo_id: str, filename: str) -> dict[str, list[int]]:
        with loaders.safe_open(cached(repo_id, filename), framework="pt") as file:
            return {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118

    replaced = {"hf_hub_download": cached, "get_safetensors_tensor_shapes": shapes}
    with _lock:
        kept = {name: getattr(loaders, name) for name in (*replaced, "torch")}
        try:
            for name, function in replaced.items():
                setattr(loaders, name, function)
            loaders.torch = _RestrictedTorch(kept["torch"])
            yield read
        finally:
            for name, value in kept.items():
                setattr(loaders, name, value)


def refuse_large_file(path: Path) -> None:
    """Raises BudgetError for weights that do not fit into memory, of a compressed file by the size that it expands to, and
    DamagedError for a configuration that is too long to be one."""
    if path.suffix in CONFIGS and path.stat().st_size > MAX_CONFIG_BYTES:
        raise DamagedError(f"{path.stat().st_size:,} bytes are no configuration of an SAE", place=str(path))
    if path.suffix in WEIGHTS and path.is_file():
        n_bytes = path.stat().st_size
        if path.suffix == ".npz" and zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                n_bytes = sum(one.file_size for one in archive.infolist())
        refuse_too_large(n_bytes, what="this file of weights", place=str(path))
