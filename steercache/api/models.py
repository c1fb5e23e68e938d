"""Loading a model by name, with its tokenizer and image processor."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steercache.api.paths import default_root
from steercache.cells.model import find_model
from steercache.models.spec import LoadedModel


def load(
    name: str | os.PathLike[str],
    *,
    device: str = "auto",
    dtype: str = "auto",
    device_map: str | Mapping[str, Any] | None = None,
    root: str | os.PathLike[str] | None = None,
) -> LoadedModel:
    """Load a model with its tokenizer and, for a multimodal one, its image processor.

    `name` is a shipped model (`demo`, `tiny`), a model manifest by name or file (`smollm2-135m`), a checkpoint folder, or a
    repository of the Hugging Face hub (`owner/name`). `dtype` "auto" is the checkpoint's own; `device` "auto" is the first
    accelerator, or the CPU; `device_map` spreads the model over devices, as accelerate does. Weights that must be converted
    (GGUF files, shipped models) are converted once, into `models/` of the cache at `root`.

    Raises:
        NotFoundError: nothing has that name. UsageError: the weights are not what the configuration describes, or the
        architecture is not supported. MissingExtraError: torch or transformers is not installed.
    """
    folder = default_root() if root is None else Path(root)
    return find_model(os.fspath(name), folder).load(folder, device=device, dtype=dtype, device_map=device_map)
