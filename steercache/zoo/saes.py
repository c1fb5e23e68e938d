"""The sparse autoencoders that ship: folders of sae-lens with a card and the health that was measured. No torch here."""

import json
import shutil
from pathlib import Path
from typing import Any, Final

from steercache.core.errors import NotFoundError, UsageError

SHELF: Final = Path(__file__).resolve().parent / "sae_folders"


def sae_names() -> tuple[str, ...]:
    """The SAEs that ship."""
    return tuple(sorted(path.parent.name for path in SHELF.glob("*/cfg.json")))


def sae_folder(name: str) -> Path:
    """The folder of a shipped SAE, as sae-lens loads it.

    Raises:
        NotFoundError: no such SAE.
    """
    if name not in sae_names():
        raise NotFoundError(f"no SAE named {name!r} ships", hint=f"one of: {', '.join(sae_names())}")
    return SHELF / name


def copy_sae(name: str, folder: Path) -> Path:
    """Copy a shipped SAE into `folder`, new, empty, or holding it already; returns the folder.

    Raises:
        NotFoundError: no such SAE. UsageError: the folder holds something else.
    """
    source = sae_folder(name)
    config = folder / "cfg.json"
    same = config.is_file() and config.read_bytes() == (source / "cfg.json").read_bytes()
    if folder.exists() and not same and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError("this folder holds something else", place=str(folder), hint="name a new or an empty folder")
    shutil.copytree(source, folder, dirs_exist_ok=True)
    return folder


def sae_card(name: str) -> str:
    """The card (Markdown): recipe, data, seeds, measured health and what must be said about it. Raises NotFoundError."""
    return (sae_folder(name) / "card.md").read_text(encoding="utf-8")


def sae_health(name: str) -> dict[str, Any]:
    """The measured numbers of the card as data. Raises NotFoundError."""
    found: dict[str, Any] = json.loads((sae_folder(name) / "health.json").read_text(encoding="utf-8"))
    return found
