"""What stands on the shelf, and how a name becomes a checkpoint folder."""

import contextlib
import glob
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from steercache.core.errors import NotFoundError, UsageError
from steercache.manifests.model import GgufModel, ModelManifest, PathModel, ShippedModel
from steercache.models.lock import wait_for_lock
from steercache.models.older_readers import write_older_keys
from steercache.models.sync import sync, sync_tree
from steercache.zoo.source import GGUF_NAME, PACKAGE

ROOM: Final = Path(__file__).resolve().parent
TINY: Final = ROOM / "tiny" / "weights"
DEMO: Final = ROOM / "demo" / "weights"
STAMP: Final = (
    "zoo.json"  # in every built folder: what it is, so that building it again is free and nothing else is replaced
)


FORM: Final = 2  # raise it when a built folder of the same weights gets other files


def names() -> tuple[str, ...]:
    """The models that `build` knows."""
    return tuple(_MAKERS)


def card(name: str) -> str:
    """The model card (Markdown): recipe, data, seeds, measured scores and limitations.

    Raises:
        NotFoundError: no such model.
    """
    return (_shelf_of(name) / "card.md").read_text(encoding="utf-8")


def scores(name: str) -> dict[str, Any]:
    """The measured numbers of the card as data.

    Raises:
        NotFoundError: no such model.
    """
    found: dict[str, Any] = json.loads((_shelf_of(name) / "scores.json").read_text(encoding="utf-8"))
    return found


def build(name: str, out_dir: str | os.PathLike[str]) -> Path:
    """Writes the complete checkpoint folder of a model and returns it; a folder that already holds it is not changed.

    Processes that ask at once wait for one of them.

    Raises:
        NotFoundError: no such model.
        UsageError: `out_dir` holds something else.
        MissingExtraError: a package that it is made from is not installed.
    """
    out = Path(out_dir)
    shelf = _shelf_of(name)
    stamp = {"name": name, "weights": _digest(shelf), "form": str(FORM)}
    if _stamp_of(out) == stamp:
        return out
    if out.exists() and (not out.is_dir() or any(out.iterdir())) and not (out / STAMP).is_file():
        raise UsageError("this folder holds something else", place=str(out), hint="name a new or an empty folder")
    with wait_for_lock(out.parent / f".{out.name}.lock"):
        if _stamp_of(out) != stamp:  # else another process made it while we waited
            _make(name, out, stamp)
    return out


def _make(name: str, out: Path, stamp: dict[str, str]) -> None:
    """Put the folder together beside its place and give it its name; we hold the lock."""
    prefix = f".{out.name}.tmp-"
    for left in out.parent.glob(f"{glob.escape(prefix)}*"):
        shutil.rmtree(left, ignore_errors=True)  # of a process that was killed
    part = Path(tempfile.mkdtemp(prefix=prefix, dir=out.parent))
    try:
        _MAKERS[name](part)
        write_older_keys(part)
        shutil.copyfile(_shelf_of(name) / "card.md", part / "README.md")
        (part / STAMP).write_text(json.dumps(stamp) + "\n", encoding="utf-8")
        part.chmod(0o755)
        sync_tree(part)  # else a power loss could leave the stamp and empty weights
        shutil.rmtree(out, ignore_errors=True)
        os.replace(part, out)
        sync(out.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _stamp_of(folder: Path) -> Any:
    """What a built folder says it is; None for any other folder."""
    stamp = folder / STAMP
    return json.loads(stamp.read_text(encoding="utf-8")) if stamp.is_file() else None


def in_place(manifest: ModelManifest, root: Path) -> ModelManifest:
    """The manifest with a model of the zoo put together below the cache's `root`; any other manifest unchanged.

    `demo-backbone` is SmolLM2 out of its GGUF file, whose conversion follows the requested dtype.

    Raises:
        MissingExtraError: a package that it is made from is not installed.
    """
    if not isinstance(manifest.source, ShippedModel):
        return manifest
    if manifest.source.name == "demo-backbone":
        gguf = GgufModel(type="gguf", package=PACKAGE, file=GGUF_NAME)
        return manifest.model_copy(update={"source": gguf})
    if manifest.source.name == "tiny":  # its backbone's weights are then there to be compared with
        build("tiny-backbone", root / "models" / "zoo-tiny-backbone")
    folder = build(manifest.source.name, root / "models" / f"zoo-{manifest.source.name}").resolve()
    return manifest.model_copy(update={"source": PathModel(type="path", folder=str(folder))})


def built_as(folder: Path) -> str | None:
    """The name of the zoo's model that a folder was built as; None for any other folder."""
    try:
        stamp = _stamp_of(folder)
    except (OSError, ValueError):
        return None
    name = stamp.get("name") if isinstance(stamp, dict) else None
    return name if name in _MAKERS else None


def _shelf_of(name: str) -> Path:
    if name not in _MAKERS:
        raise NotFoundError(f"no model named {name!r}", hint=f"one of: {', '.join(names())}")
    return TINY if name.startswith("tiny") else DEMO


def _digest(shelf: Path) -> str:
    """The shipped weights' digest: a folder built from other weights is built again."""
    from steercache.core.ids import digest_bytes

    return digest_bytes(*(path.read_bytes() for path in sorted(shelf.rglob("*.safetensors"))))


def _tiny(part: Path) -> None:
    shutil.copytree(TINY / "mllm", part, dirs_exist_ok=True)


def _tiny_backbone(part: Path) -> None:
    shutil.copytree(TINY / "backbone", part, dirs_exist_ok=True)


def _demo(part: Path) -> None:
    from steercache.zoo.demo.assemble import assemble

    with _quietly():
        assemble(DEMO / "delta.safetensors", part)


def _demo_backbone(part: Path) -> None:
    from steercache.zoo.smollm2 import load_smollm2, load_smollm2_tokenizer

    with _quietly():
        load_smollm2().save_pretrained(part)
        load_smollm2_tokenizer().save_pretrained(part)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without transformers' progress bars, one of which it writes past its own switch."""
    from steercache.models.quiet import quiet

    with quiet(), contextlib.redirect_stderr(io.StringIO()):
        yield


_MAKERS: Final[dict[str, Callable[[Path], None]]] = {
    "tiny": _tiny,
    "tiny-backbone": _tiny_backbone,
    "demo": _demo,
    "demo-backbone": _demo_backbone,
}
