"""A plain PyTorch script of about ten lines, which needs only torch and transformers, beside a safetensors file."""

from typing import Final

from safetensors.numpy import save

from steercache.exchange.vectors.expressed import Consumer, Expressed
from steercache.exchange.vectors.torch_formats import blocks_path, clamp_value

SCRIPT: Final = Consumer(
    name="the script",
    scale="each",
    operations=("add", "project_out", "clamp"),
    phases=("both", "prompt", "generated"),
)
_WHEN: Final = {"both": "True", "prompt": "h.shape[1] > 1", "generated": "h.shape[1] == 1"}
_TEMPLATE: Final = """\
# {what}. Written by steercache; needs torch and transformers 5:  python {name} MODEL "a prompt"
import sys
from pathlib import Path

from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer


def steer(model, strengths={strengths}):  # by decoder block, from 0; the hook is at its output, before the final norm
    for layer, v in load_file(Path(__file__).with_name({values!r})).items():
        def hook(module, args, h, v=v, s=strengths[layer]):
            return {formula}.to(h.dtype) if {when} else h

        model.base_model.get_submodule(f"{blocks}.{{layer}}").register_forward_hook(hook)


if __name__ == "__main__":
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1]).eval()
    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
    steer(model)
    said = model.generate(**tokenizer(sys.argv[2], return_tensors="pt"), max_new_tokens=40, do_sample=False)
    print(tokenizer.decode(said[0], skip_special_tokens=True))
"""
_FORMULAS: Final = {
    "add": "(h.float() + s * v)",
    "project_out": "(h.float() - (h.float() @ (u := v / v.norm()))[..., None] * u)",
    "clamp": "(h.float() + (s - h.float() @ (u := v / v.norm()))[..., None] * u)",
}


def script_files(out: Expressed, *, script_name: str, values_name: str, blocks: str | None) -> tuple[bytes, bytes]:
    """The script, and its values by layer."""
    if out.use.operation == "add":
        strengths = out.multiples or dict.fromkeys(out.directions, 1.0)
    else:
        value = clamp_value(out.use) if out.use.operation == "clamp" else 1.0
        strengths = dict.fromkeys(out.directions, value)
    said = out.vector.name.encode("ascii", "replace").decode().replace("\n", " ").replace("\r", " ")
    text = _TEMPLATE.format(
        what=f"Steers with {said!r}: {out.use.operation} at {out.use.place}, every token, {out.use.phase}",
        name=script_name,
        values=values_name,
        strengths={str(layer): strength for layer, strength in strengths.items()},
        formula=_FORMULAS[out.use.operation],
        when=_WHEN[out.use.phase],
        blocks=blocks_path(out, blocks),
    )
    return text.encode(), save({str(layer): one for layer, one in out.directions.items()})
