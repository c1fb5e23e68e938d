"""Formats that are `.pt` files: steering-vectors, lm-eval, TextSteersVision, plain dictionaries of tensors."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from steercache.core.errors import UsageError
from steercache.core.vector_use import OperationName, VectorUse
from steercache.exchange.vectors.expressed import Consumer, Expressed
from steercache.exchange.vectors.held import HeldVector, checked_values, refused
from steercache.exchange.vectors.torch_files import load_torch, tensor_array, torch_bytes

STEERING_VECTORS: Final = Consumer(name="steering-vectors", scale="none")
LM_EVAL: Final = Consumer(name="lm-eval", scale="each", operations=("add", "clamp", "project_out"))
_LAST_NUMBER: Final = re.compile(r"(?:^|.*[^0-9])([0-9]{1,6})(?:\.?[a-z_]*)$")
_SITES: Final = {"decoder_block": "resid_post", "self_attn": "attn_out", "mlp": "mlp_out"}


def steering_vectors_bytes(out: Expressed, *, head: Mapping[str, Any]) -> bytes:
    """The fields of `steering_vectors.SteeringVector`, as `SteeringVector(**torch.load(FILE))` takes them."""
    import torch

    activations = {layer: torch.from_numpy(one.copy()) for layer, one in out.directions.items()}
    return torch_bytes({"layer_activations": activations, "layer_type": "decoder_block"}, head=head)


def read_steering_vectors(path: Path) -> HeldVector:
    """A dictionary of the fields of `steering_vectors.SteeringVector`."""
    value, header = load_torch(path)
    activations = value.get("layer_activations") if isinstance(value, dict) else None
    if not isinstance(activations, dict):
        raise refused(
            path,
            "holds no dictionary with layer_activations",
            "save it as torch.save(dataclasses.asdict(vector), FILE); a pickled SteeringVector is not loaded",
        )
    kind = value.get("layer_type", "decoder_block")
    site = _SITES.get(kind) if isinstance(kind, str) else None
    if site is None:
        raise refused(path, f"is for layers of type {kind!r:.60}, which no site here is", f"known: {', '.join(_SITES)}")
    use = VectorUse(phase="both", place=site)
    return HeldVector(
        values=_numbered(path, activations), header=header, layer_offset=0, site=site, norm="keep", use=use
    )


def lm_eval_bytes(out: Expressed, *, head: Mapping[str, Any], blocks: str | None = None) -> bytes:
    """The dictionary by hook points of lm-eval's model `steered`, to be given as `steer_path`; it steers every token.

    `blocks` is the path of the blocks below the model's backbone.
    """
    import torch

    path, config = blocks_path(out, blocks), {}
    for layer, one in out.directions.items():
        coefficient = {"add": (out.multiples or {}).get(layer, 1.0), "project_out": 0.0}.get(out.use.operation)
        if coefficient is None:
            coefficient = clamp_value(out.use)
        config[f"{path}.{layer}"] = {
            "steering_vector": torch.from_numpy(one.copy()),
            "steering_coefficient": float(coefficient),
            "action": "add" if out.use.operation == "add" else "clamp",
            "bias": None,
            "head_index": None,
        }
    return torch_bytes(config, head=head)


def blocks_path(out: Expressed, blocks: str | None) -> str:
    """Where the blocks lie below `model.base_model`. Raises UsageError where that is not known."""
    if blocks is not None:
        if not all(part.isidentifier() or part.isdecimal() for part in blocks.split(".")):
            raise UsageError(f"{blocks!r:.80} is no path of modules", hint="give one such as language_model.layers")
        return blocks
    if out.vector.fitted_on is not None and out.vector.fitted_on.modality != "text":
        raise UsageError(
            f"{out.vector.name!r} was fitted on the multimodal model {out.vector.fitted_on.name}, whose blocks lie elsewhere "
            "than a text model's",
            hint="name the path of the blocks below model.base_model, such as language_model.layers",
        )
    return "layers"


def clamp_value(use: VectorUse) -> float:
    """The value that the component is clamped to: the operation's only parameter, or the strength."""
    if len(use.parameters) == 1:
        return float(next(iter(use.parameters.values())))
    if use.strength is None:
        raise UsageError("clamp needs the value that the component is brought to", hint="give it as the strength")
    return float(use.strength)


def read_lm_eval(path: Path) -> HeldVector:
    """A dictionary of hook points, as lm-eval's `steered` model takes it."""
    value, header = load_torch(path)
    if not isinstance(value, dict) or not value or not all(isinstance(v, dict) for v in value.values()):
        raise refused(path, "is no dictionary of hook points")
    problems, vectors, coefficients, actions = [], {}, {}, set()
    for hook, said in value.items():
        layer = _layer_of(hook)
        if said.get("head_index") is not None or said.get("bias") is not None:
            problems.append(f"{hook!r:.60} steers one head or has a bias, which no operation here does")
        if layer is None or not str(hook).rpartition(".")[2].isdecimal():
            problems.append(f"{hook!r:.60} is no decoder block")
            continue
        vectors[layer] = said.get("steering_vector")
        coefficients[layer] = said.get("steering_coefficient", 1.0)
        actions.add(said.get("action"))
    if len(actions) > 1 or not actions <= {"add", "clamp"}:
        problems.append(f"its actions are {', '.join(sorted(map(str, actions)))}, and one of add and clamp is read")
    if not all(isinstance(one, int | float) and np.isfinite(one) for one in coefficients.values()):
        problems.append("a steering_coefficient is no finite number")
    if problems:
        raise refused(path, "; ".join(problems[:5]))
    strengths = set(coefficients.values())
    action, strength = actions.pop(), (float(strengths.pop()) if len(strengths) == 1 else None)
    operation: OperationName = "add" if action == "add" else "project_out" if strength == 0 else "clamp"
    parameters = {"value": strength} if operation == "clamp" and strength is not None else {}
    use = VectorUse(
        operation=operation,
        parameters=parameters,
        phase="both",
        strength=strength if operation == "add" else None,
    )
    notes = () if strength is not None else ("strengths differ between layers and are not kept",)
    return HeldVector(
        values=_numbered(path, vectors),
        header=header,
        layer_offset=0,
        site="resid_post",
        norm="keep",
        use=use,
        notes=notes,
        about={"steering_coefficient": {str(layer): float(one) for layer, one in coefficients.items()}},
    )


def read_text_steers_vision(path: Path) -> HeldVector:
    """`features.pt` of arXiv 2505.14071's code: mean shifts or probe weights by layer.

    The code numbers them by block (`hidden_states[l + 1]`), so the last one was measured behind the model's final norm. Whether
    vectors are brought to unit length is decided when it loads them.
    """
    value, header = load_torch(path)
    if not isinstance(value, dict):
        raise refused(path, "holds one tensor and no layers", "give features.pt, or read layer_N_feature.pt as pytorch")
    vectors = {key: one.get("weights") if isinstance(one, dict) else one for key, one in value.items()}
    left_out = [str(key) for key, one in vectors.items() if one is None]
    notes = ["if it holds every layer, the last was measured behind the final norm, not at the block's output"]
    notes += [f"no values for layer {', '.join(left_out)}"] if left_out else []
    return HeldVector(
        values=_numbered(path, {key: one for key, one in vectors.items() if one is not None}),
        header=header,
        layer_offset=0,
        site="resid_post",
        use=VectorUse(target="text"),
        notes=tuple(notes),
    )


def read_pytorch(path: Path) -> HeldVector:
    """A dictionary of tensors whose names end in their layer, or one tensor of shape (layer, d) or (d,)."""
    value, header = load_torch(path)
    return plain_held(path, value, header=header)


def plain_held(path: Path, value: Any, *, header: Mapping[str, Any] | None) -> HeldVector:
    """Directions of a mapping by names, or of one array, whose rows have no numbers. The format says nothing of them."""
    if isinstance(value, Mapping):
        return HeldVector(values=_numbered(path, value), header=header)
    try:
        array = np.asarray(tensor_array(value))
    except ValueError as error:
        raise refused(path, str(error)) from error
    if array.ndim not in (1, 2) or array.dtype.kind not in "fV":
        raise refused(path, f"holds {array.dtype} of shape {array.shape}, not (layer, hidden size) or (hidden size,)")
    rows = checked_values(path, dict(enumerate(array.reshape(-1, array.shape[-1]))))
    return HeldVector(values=rows, header=header, numbered=False)


def _numbered(path: Path, named: Mapping[Any, Any]) -> dict[int, Any]:
    found: dict[int, Any] = {}
    for name, value in named.items():
        layer = _layer_of(name)
        if layer is None:
            raise refused(path, f"the name {name!r:.80} says no layer")
        if layer in found:
            raise refused(path, f"layer {layer} is there twice")
        try:
            found[layer] = tensor_array(value)
        except ValueError as error:
            raise refused(path, f"layer {layer}: {error}") from error
        if not isinstance(found[layer], np.ndarray):
            raise refused(path, f"layer {layer} is no tensor")
    return dict(checked_values(path, found))


def _layer_of(name: Any) -> int | None:
    """The number that a name ends in: 12, "12", "layer_12", "model.layers.12", "layer_12_feature"."""
    if isinstance(name, int) and not isinstance(name, bool):
        return name if name >= 0 else None
    match = _LAST_NUMBER.match(name) if isinstance(name, str) and len(name) < 500 else None
    return None if match is None else int(match[1])
