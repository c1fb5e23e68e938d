"""What an SAE must be before its weights are read, and what its weights must be after."""

import warnings
from collections.abc import Mapping
from types import NoneType
from typing import Any, Final

from steercache.core.errors import DamagedError, SteercacheWarning, UsageError
from steercache.core.excerpts import excerpt
from steercache.sae.library import sae_lens
from steercache.sae.memory import refuse_too_large

_OTHERS: Final = {  # architectures of sae-lens that are no function of one row to its own features and back
    "transcoder": "it maps the input of a layer to its output",
    "skip_transcoder": "it maps the input of a layer to its output",
    "jumprelu_transcoder": "it maps the input of a layer to its output",
    "jumprelu_skip_transcoder": "it maps the input of a layer to its output",
    "temporal": "it encodes a row together with the rows before it",
}
_METADATA: Final[Mapping[str, type]] = {
    "model_name": str,
    "hook_name": str,
    "neuronpedia_id": str,
    "training_architecture": str,
    "context_size": int,
    "prepend_bos": bool,
    "model_from_pretrained_kwargs": dict,
}
_COPIES: Final = 2  # the weights, and the file's tensors or a transposition of them for a moment


def check_config(config: Mapping[str, Any], *, place: str, training: bool = False) -> None:
    """Refuse an SAE by its configuration, before any weight is read.

    Raises:
        DamagedError: the configuration makes no sense, or names an architecture that sae-lens does not know.
        UsageError: an SAE that cannot encode single rows. BudgetError: it does not fit into memory.
    """
    architecture = config.get("architecture")
    known = sae_lens().registry
    names = known.SAE_TRAINING_CLASS_REGISTRY if training else known.SAE_CLASS_REGISTRY
    if architecture in _OTHERS:
        raise UsageError(f"a {architecture} is not read: {_OTHERS[str(architecture)]}", place=place)
    if architecture not in names:
        raise DamagedError(
            f"sae-lens knows no architecture {architecture!r}",
            place=place,
            hint=f"one of: {', '.join(sorted(set(known.SAE_CLASS_REGISTRY) - set(_OTHERS)))}",
        )
    if config.get("reshape_activations", "none") != "none":
        raise UsageError("an SAE of attention heads (hook_z) is not read: no run keeps their outputs", place=place)
    sizes = {name: config.get(name) for name in ("d_in", "d_sae")}
    wrong = [f"{name} {value!r}" for name, value in sizes.items() if not _is_size(value)]
    if wrong:
        raise DamagedError(f"the configuration has {' and '.join(wrong)}: no number of features or values", place=place)
    n_bytes = _COPIES * 2 * 4 * int(config["d_in"]) * int(config["d_sae"])
    refuse_too_large(n_bytes, what=f"an SAE of {config['d_in']:,} x {config['d_sae']:,}", place=place)


def check_module(module: Any, *, place: str) -> None:
    """Refuse weights that cannot encode; warn of an SAE whose input sae-lens does not scale as it was trained.

    Raises:
        DamagedError: a value that is not finite, a shape that does not fit, a k beyond the number of features.
        UsageError: trained on whitened activations that were not folded in.
    """
    cfg = module.cfg
    expected = {"W_enc": (cfg.d_in, cfg.d_sae), "W_dec": (cfg.d_sae, cfg.d_in), "b_dec": (cfg.d_in,)}
    for name, tensor in module.state_dict().items():
        if name in expected and tuple(tensor.shape) != expected[name]:
            raise DamagedError(f"{name} is {tuple(tensor.shape)}, not {expected[name]}", place=place)
        if tensor.numel() and not all(bound.isfinite() for bound in tensor.aminmax()):
            bad = int((~tensor.isfinite()).sum())
            raise DamagedError(f"{bad:,} of {tensor.numel():,} values of {name} are NaN or infinite", place=place)
    k = getattr(cfg, "k", None)
    if k is not None and (isinstance(k, bool) or not isinstance(k, int | float) or not 1 <= k <= cfg.d_sae):
        raise DamagedError(f"the configuration has k {excerpt(k)} of {cfg.d_sae:,} features", place=place)
    said = {name: getattr(cfg.metadata, name, None) for name in _METADATA}
    wrong = [
        f"{name} {excerpt(value)}" for name, value in said.items() if not isinstance(value, (_METADATA[name], NoneType))
    ]
    if wrong:
        raise DamagedError(f"the configuration's metadata have {', '.join(wrong)}", place=place)
    if cfg.normalize_activations == "covariance_whitening":
        raise UsageError(
            "it was trained on whitened activations, and the whitening is not folded into its weights",
            place=place,
            hint="fold it in with sae-lens (fold_activation_whitening), and save it again",
        )
    if cfg.normalize_activations == "expected_average_only_in":
        warnings.warn(
            f"{place}: it was trained on scaled activations, and the factor is neither in its weights nor known: it is used"
            " unscaled, as sae-lens does",
            SteercacheWarning,
            stacklevel=4,
        )


def check_computes(module: Any, *, place: str) -> None:
    """Encode and decode two small rows: settings of another type than sae-lens expects show only then.

    Raises:
        DamagedError: the result is not finite, or has another shape. What else sae-lens raises, the caller explains.
    """
    import torch

    ramp = torch.linspace(-1, 1, module.cfg.d_in, dtype=module.dtype, device=module.device)
    with torch.no_grad():
        features = module.encode(torch.stack([ramp, ramp.flip(0)]))
        rows = module.decode(features)
    shapes = tuple(features.shape), tuple(rows.shape)
    if shapes != ((2, module.cfg.d_sae), (2, module.cfg.d_in)):
        raise DamagedError(f"two rows become features {shapes[0]} and rows {shapes[1]}", place=place)
    if not (features.isfinite().all() and rows.isfinite().all()):
        raise DamagedError("small rows become features or rows that are NaN or infinite", place=place)


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
