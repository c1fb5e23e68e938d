"""Names for completion at a terminal, read from file names and headers alone: no database, no numpy.

Nothing here raises: a file that cannot be read has no name to offer.
"""

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from steercache.cache.paths import RootPaths
from steercache.core.errors import SteercacheError
from steercache.core.shipped import shipped_folder

_HEADER_KEY = "steercache.vector"
_MAX_HEADER_BYTES = 2**20
_MANIFEST_FOLDERS = ("models", "datasets", "traces", "sweeps", "saes")
_DATA = (".csv", ".jsonl", ".parquet", ".txt")


def run_names(root: Path) -> list[str]:
    """Names of the runs of the cache at `root`."""
    return _sorted(_json(run.document).get("name") for run in RootPaths(root).run_folders())


def sweep_names(root: Path) -> list[str]:
    """Names of the stored sweeps of the cache at `root`, and of the manifests that their grids were started from."""
    documents = [_json(folder / "manifest.json") for folder in RootPaths(root).sweep_folders()]
    grids = [inside for document in documents if isinstance(inside := document.get("manifest"), dict)]
    return _sorted([*(document.get("name") for document in documents), *(grid.get("sweep") for grid in grids)])


def vector_names(root: Path) -> list[str]:
    """Names of the fitted vectors of the cache at `root`; of control directions, of which there are many, none."""
    return _sorted(_vector_name(path) for path in RootPaths(root).vectors.glob("*.safetensors"))


def concept_names(root: Path) -> list[str]:
    """Concepts of the fitted vectors of the cache at `root`."""
    heads = (_vector_head(path) for path in RootPaths(root).vectors.glob("*.safetensors"))
    return _sorted(head.get("concept") for head in heads)


def encoded_sae_names(root: Path) -> list[str]:
    """Names of the SAEs that encoded a run of the cache at `root`."""
    documents = (_json(paths.document).get("sae") for paths in RootPaths(root).encoding_folders())
    return _sorted(sae.get("name") for sae in documents if isinstance(sae, dict))


def query_names() -> list[str]:
    """Names of the queries that ship."""
    return _sorted(path.stem for path in _shipped("queries").glob("*.sql"))


def manifest_names(kind: str | None = None) -> list[str]:
    """Names of the manifests in the current folder and of those that ship, of one kind ("trace", "sweep", ...) or of all."""
    here = [path.name for path in Path().glob("*.y*ml") if _declares(path, kind)]
    shipped = _shipped("manifests")
    folders = [shipped, *(base / inner for base in (Path(), shipped) for inner in _MANIFEST_FOLDERS)]
    named = [path.stem for folder in folders for path in folder.glob("*.y*ml") if _declares(path, kind)]
    return _sorted([*here, *named])


def data_files() -> list[str]:
    """Data files of the current folder that a build takes without a manifest."""
    return _sorted(path.name for path in Path().glob("*") if path.suffix.lower() in _DATA)


def _declares(path: Path, kind: str | None) -> bool:
    """Whether the file has a line `kind: ...` at its top level."""
    wanted = "kind:" if kind is None else f"kind: {kind}"
    with suppress(OSError, UnicodeDecodeError):
        return any(line.split("#")[0].rstrip().startswith(wanted) for line in path.read_text("utf-8").splitlines()[:50])
    return False


def _shipped(what: Any) -> Path:
    with suppress(SteercacheError):
        return shipped_folder(what)
    return Path("/nonexistent")


def _vector_name(path: Path) -> str | None:
    head = _vector_head(path)
    provenance = head.get("provenance")
    is_control = isinstance(provenance, dict) and "control_kind" in provenance
    return None if is_control else head.get("name")


def _vector_head(path: Path) -> dict[str, Any]:
    """The metadata of one vector, from the header of its safetensors file: 8 bytes of length, then JSON."""
    with suppress(OSError, ValueError, KeyError, TypeError), path.open("rb") as file:
        n_bytes = int.from_bytes(file.read(8), "little")
        if n_bytes <= _MAX_HEADER_BYTES:
            head = json.loads(json.loads(file.read(n_bytes))["__metadata__"][_HEADER_KEY])
            return head if isinstance(head, dict) else {}
    return {}


def _json(path: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        found = json.loads(path.read_bytes())
        return found if isinstance(found, dict) else {}
    return {}


def _sorted(names: Iterable[Any]) -> list[str]:
    return sorted({name for name in names if isinstance(name, str) and name})
