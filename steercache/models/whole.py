"""Whether a checkpoint's tensors and the model loaded from it are the same: none missing, left over or of another shape.

transformers initialises missing weights at random and drops unexpected ones, and reports it only in its log.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from transformers.utils.quantization_config import QuantizationMethod

from steercache.core.errors import DamagedError, ManifestError
from steercache.models.checkpoint_folder import Checkpoint
from steercache.models.quantised import stored_settings
from steercache.models.weight_files import listed, tensors_of

# Any other dtype of safetensors holds codes of quantised weights; without `quantization_config` their scale is unknown.
_FLOATS: Final = frozenset({"F64", "F32", "F16", "BF16"})
_AHEAD: Final = re.compile(r"^(model\.)?mtp\.")  # a head that predicts tokens further ahead, beside the model's own
_LORA: Final = re.compile(r"(^|[._])lora_|\.base_layer\.|loha_|lokr_|\.modules_to_save\.")
_SCALES: Final = re.compile(r"scale|zero_?point|absmax|\.SCB$|quant_(map|state)|qweight|qzeros|g_idx")
_LAYER: Final = re.compile(r"(?:^|\.)(?:layers|h|blocks|blk)\.(\d+)\.")
_FETCH: Final = "fetch the model again"


@dataclass(frozen=True, slots=True)
class Harmless:
    """A tensor that older checkpoints hold and the model computes anew from its configuration.

    `shape` is a pattern over the shape's numbers joined by commas, so that weights of a similar name do not pass.
    """

    name: re.Pattern[str]
    shape: re.Pattern[str]

    def fits(self, name: str, shape: Iterable[int]) -> bool:
        """Whether a tensor of this name and shape is meant."""
        return bool(self.name.search(name) and self.shape.fullmatch(",".join(map(str, shape))))


def _harmless(name: str, shape: str) -> Harmless:
    return Harmless(re.compile(name), re.compile(shape))


HARMLESS: Final = (
    _harmless(r"(^|\.)rotary_emb\.inv_freq$", r"\d+"),  # rotary frequencies
    _harmless(r"(^|\.)position_ids$", r"(1,)?\d+"),  # 0, 1, 2, ... of a vision tower
    _harmless(r"(^|\.)h\.\d+\.(attn|crossattention)\.bias$", r"1,1,(\d+),\1"),  # GPT-2's causal mask
    _harmless(r"(^|\.)h\.\d+\.(attn|crossattention)\.masked_bias$", r"1?"),  # what it puts at masked places
    _harmless(r"(^|\.)layers\.\d+\.attention\.bias$", r"1,1,(\d+),\1"),  # GPT-NeoX's causal mask
    _harmless(r"(^|\.)layers\.\d+\.attention\.masked_bias$", r"1?"),
)
# What transformers drops without listing it as unexpected (`_keys_to_ignore_on_load_unexpected`, two more by name).
_DROPPED_UNSEEN: Final = (r"rotary_emb\.inv_freq", r"(^|\.)position_ids$")


def refuse_codes(checkpoint: Checkpoint) -> None:
    """Look at the tensors' dtypes without loading them.

    Raises:
        ManifestError: weights are 8-bit or smaller codes and the configuration does not say how they were quantised.
        DamagedError: two files hold the same tensor, or a file is broken.
    """
    tensors = tensors_of(checkpoint.files)
    if quantisation(checkpoint.config) is None:
        _refuse_codes(tensors, checkpoint, why="config.json has no `quantization_config`")


def _refuse_codes(tensors: Mapping[str, Mapping[str, Any]], checkpoint: Checkpoint, *, why: str) -> None:
    codes = [name for name, t in tensors.items() if t["dtype"] not in _FLOATS and not is_harmless(name, t)]
    if codes:
        kinds = ", ".join(sorted({str(tensors[name]["dtype"]) for name in codes}))
        raise ManifestError(
            f"{len(codes)} weights are stored as {kinds} and {why}, so their values are unknown: {listed(codes)}",
            place=str(checkpoint.folder),
            hint="use the unquantised checkpoint, or the config.json that belongs to these weights",
        )


def refuse_partial(info: Mapping[str, Any], model: Any, checkpoint: Checkpoint) -> None:
    """Compare what was in the files with what is in the model; `info` is transformers' loading info.

    Raises:
        DamagedError: a weight is missing, has another shape, or is in the files and not in the model.
        ManifestError: the files are an adapter's or a model's without language-model head.
    """
    tensors = tensors_of(checkpoint.files)
    method = quantisation(checkpoint.config)
    if method is not None and method not in {known.value for known in QuantizationMethod}:  # then transformers skips it
        _refuse_codes(tensors, checkpoint, why=f"transformers does not know the quantisation {method!r}")
    missing = {str(key) for key in info["missing_keys"]}
    reshaped = {str(key) for key, *_ in info["mismatched_keys"]}
    left_over = {str(key) for key in info["unexpected_keys"]} | _dropped_unseen(model, tensors)
    left_over = {
        key for key in left_over if not is_harmless(key, tensors.get(key)) and not _ahead(key, checkpoint.config)
    }
    if (missing | reshaped) and not any(_LORA.search(key) or _SCALES.search(key) for key in left_over):
        raise _lacking(missing, reshaped, checkpoint)
    if left_over:
        raise unused(left_over, config=checkpoint.config, place=str(checkpoint.folder))
    if info.get("error_msgs"):
        raise DamagedError(str(info["error_msgs"][0]), place=str(checkpoint.folder), hint=_FETCH)


def is_harmless(name: str, tensor: Mapping[str, Any] | None) -> bool:
    """Whether a tensor of a file may be left out of the model; `tensor` is its entry in the file's header."""
    shape = () if tensor is None else tensor["shape"]
    return any(one.fits(name, shape) for one in HARMLESS)


def _ahead(name: str, config: Mapping[str, Any]) -> bool:
    """Whether a tensor is of a head that predicts tokens further ahead, for speculative decoding, and that the forward leaves
    out: by its name (Qwen), or as one of the blocks that a configuration counts behind the model's last (DeepSeek, GLM)."""
    if _AHEAD.match(name):
        return True
    text, n_layers, found = config.get("text_config") or {}, _n_layers(config), _LAYER.search(name)
    n_more = next((c["num_nextn_predict_layers"] for c in (text, config) if c.get("num_nextn_predict_layers")), 0)
    return found is not None and n_layers is not None and n_layers <= int(found[1]) < n_layers + n_more


def unused(names: set[str], *, config: Mapping[str, Any], place: str) -> DamagedError | ManifestError:
    """The error for tensors that are in a file and not in the model that its configuration describes."""
    what = f"{len(names)} tensors of the checkpoint are not part of the model that its configuration describes"
    message = f"{what}: {listed(names)}"
    if any(_LORA.search(name) for name in names):
        hint = "merge the adapter first: peft's `merge_and_unload().save_pretrained(...)`"
        return ManifestError(f"{message}; these are an adapter's factors beside the weights", place=place, hint=hint)
    if any(_SCALES.search(name) for name in names):
        hint = "use the unquantised checkpoint, or the config.json that belongs to these weights"
        message += "; its weights are quantised and `quantization_config` does not say how"
        return ManifestError(message, place=place, hint=hint)
    n_layers = _n_layers(config)
    beyond = {int(found[1]) for name in names if (found := _LAYER.search(name))}
    if n_layers is not None and beyond and max(beyond) >= n_layers:
        message += f"; the configuration says {n_layers} layers and the file has {max(beyond) + 1}"
    hint = (
        "config.json and the weights are not of one model: fetch both again; or, if the tensors are not needed, "
        "save the model again with transformers' `save_pretrained`"
    )
    return DamagedError(message, place=place, hint=hint)


def _lacking(missing: set[str], reshaped: set[str], checkpoint: Checkpoint) -> DamagedError | ManifestError:
    place = str(checkpoint.folder)
    if missing and not reshaped and all(name.endswith("lm_head.weight") for name in missing):
        saved = ", ".join(map(str, checkpoint.config.get("architectures") or ())) or "a bare model"
        return ManifestError(
            f"it has no language-model head ({listed(missing)} is missing): it was saved from {saved}",
            place=place,
            hint="save the model with its head: AutoModelForCausalLM.from_pretrained(...).save_pretrained(...)",
        )
    what = f"{len(missing | reshaped)} weights are missing or of the wrong shape: {listed(missing | reshaped)}"
    return DamagedError(what, place=place, hint=f"{_FETCH}; config.json may be another model's")


def _dropped_unseen(model: Any, tensors: Mapping[str, Any]) -> set[str]:
    """Tensors of the files that transformers leaves out of its report because of their names, and that it did not load."""
    patterns = [*_DROPPED_UNSEEN, *(getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ())]
    quiet = re.compile("|".join(f"(?:{pattern})" for pattern in patterns))
    there = set(model.state_dict())
    prefix = f"{getattr(model, 'base_model_prefix', '')}."

    def loaded(name: str) -> bool:
        return bool(there & {name, prefix + name, name.removeprefix(prefix)})

    return {name for name in tensors if quiet.search(name) and not loaded(name)}


def quantisation(config: Mapping[str, Any]) -> str | None:
    """How a configuration says that its weights are quantised (its `quant_method`); None for not at all."""
    stored = stored_settings(config)
    return None if stored is None else str(stored.get("quant_method", "method not named"))


def _n_layers(config: Mapping[str, Any]) -> int | None:
    text = config.get("text_config") or {}
    found = [c.get(key) for c in (text, config) for key in ("num_hidden_layers", "n_layer")]
    return next((n for n in found if isinstance(n, int)), None)
