"""Where the manifests and queries that ship with the package are: in the wheel, or at the top of the repository."""

from pathlib import Path
from typing import Literal

from steercache.core.errors import NotFoundError

_PACKAGE = Path(__file__).resolve().parent.parent


def shipped_folder(name: Literal["manifests", "queries"]) -> Path:
    """The folder `name` as installed; in a checkout, the one beside the package.

    Raises:
        NotFoundError: neither is there (a broken installation).
    """
    for folder in (_PACKAGE / "_shipped" / name, _PACKAGE.parent / name):
        if folder.is_dir():
            return folder
    raise NotFoundError(
        f"the shipped {name} are missing from this installation", hint="pip install --force-reinstall steercache"
    )
