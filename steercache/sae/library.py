"""The one door to sae-lens: imported when it is first needed (that takes seconds), with its dependencies' remarks silenced."""

import warnings
from typing import Any

from steercache.core.errors import MissingExtraError


def sae_lens() -> Any:
    """The module `sae_lens`.

    Raises:
        MissingExtraError: it, or a package it needs, is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # transformer-lens deprecates a module of its own as it is imported
            import sae_lens as module
    except ImportError as error:
        raise MissingExtraError(
            f"SAEs need sae-lens, which cannot be imported: {error}", hint="pip install 'steercache[sae]'"
        ) from error
    return module
