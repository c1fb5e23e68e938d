"""The library prints nothing: transformers' progress bars and advice are off while we load."""

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

from transformers.utils import logging as transformers_logging

SAFE: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}  # no code but ours, no network


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers for a while, and put everything back as it was."""
    logging: Any = transformers_logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
