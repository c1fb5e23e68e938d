"""sparsify's SAEs (EleutherAI) through sae-lens' loader, with what it reads wrongly put right.

sae-lens 6.54 transposes sparsify's `W_dec`, which is (features, width) already, and leaves out the subtraction of `b_dec` where
`normalize_decoder` is set, which sparsify does for every SAE (`SparseCoder.encode`). Weights are still read by sae-lens.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from steercache.core.errors import UsageError

Config = dict[str, Any]
Loaded = tuple[Config, dict[str, Any]]


def from_disk(path: str | Path, device: str = "cpu", cfg_overrides: Config | None = None) -> Loaded:
    """A loader for `SAE.load_from_disk`."""
    from sae_lens.loading.pretrained_sae_loaders import sparsify_disk_loader

    _check(Path(path))
    return _mended(*sparsify_disk_loader(path, device, cfg_overrides))


def from_hub(
    repo_id: str,
    folder_name: str,
    device: str = "cpu",
    force_download: bool = False,
    cfg_overrides: Config | None = None,
) -> tuple[Config, dict[str, Any], None]:
    """A loader for `SAE.from_pretrained`."""
    from sae_lens.loading import pretrained_sae_loaders as loaders

    file: Callable[..., str] = loaders.hf_hub_download
    _check(Path(file(repo_id, filename=f"{folder_name}/{loaders.SAE_CFG_FILENAME}")).parent)
    config, state, _ = loaders.sparsify_huggingface_loader(repo_id, folder_name, device, force_download, cfg_overrides)
    return *_mended(config, state), None


def _check(folder: Path) -> None:
    """Raises UsageError for what sae-lens would read as an ordinary TopK SAE and is none."""
    said = json.loads((folder / "cfg.json").read_text())
    odd = [name for name in ("transcode", "skip_connection", "signed") if said.get(name)]
    odd += [f"activation {said['activation']}"] if said.get("activation", "topk") != "topk" else []
    if odd:
        raise UsageError(f"a coder of sparsify with {', '.join(odd)} is not read", place=str(folder))


def _mended(config: Config, state: dict[str, Any]) -> Loaded:
    expected = (config["d_sae"], config["d_in"])
    if tuple(state["W_dec"].shape) != expected or expected[0] == expected[1]:
        state["W_dec"] = state["W_dec"].T.contiguous()
    return {**config, "apply_b_dec_to_input": True}, state
