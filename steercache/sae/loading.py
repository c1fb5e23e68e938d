"""An SAE to memory, through sae-lens' own loaders: no weight format is parsed here."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steercache.core.errors import DamagedError, NotFoundError
from steercache.core.saes import SaeSpec
from steercache.sae.hooks import site_of
from steercache.sae.library import sae_lens
from steercache.sae.loaded import LoadedSae, weights_id


def load_sae(
    source: str | os.PathLike[str], *, name: str | None = None, device: str = "cpu", dtype: str = "float32"
) -> LoadedSae:
    """Load the SAE in a folder as sae-lens writes it (`cfg.json`, `sae_weights.safetensors`).

    Raises:
        NotFoundError: no such folder. DamagedError: sae-lens cannot load it. MissingExtraError: sae-lens is not installed.
    """
    folder = Path(source)
    if not (folder / "cfg.json").is_file():
        raise NotFoundError("no SAE folder: there is no cfg.json", place=str(folder))
    sae_class = sae_lens().SAE
    try:
        module = sae_class.load_from_disk(folder, device="cpu", dtype=dtype)
    except Exception as error:  # the files are outside input to a library that raises what it likes
        raise DamagedError(f"sae-lens cannot load it: {error}", place=str(folder)) from error
    spec = spec_of(module, name=name or folder.resolve().name, source={"folder": str(folder.resolve())})
    return LoadedSae(module.to(device=device), spec)


def spec_of(module: Any, *, name: str, source: Mapping[str, Any]) -> SaeSpec:
    """What a module of sae-lens is."""
    cfg, said = module.cfg, module.cfg.metadata
    site, layer = site_of(said.hook_name)
    return SaeSpec(
        sae_id=weights_id(module),
        name=name,
        source=source,
        architecture=cfg.architecture(),
        d_in=int(cfg.d_in),
        d_sae=int(cfg.d_sae),
        model_name=said.model_name,
        site=site,
        layer=layer,
        prepend_bos=said.prepend_bos,
        context_size=said.context_size,
        neuronpedia_id=said.neuronpedia_id,
    )
