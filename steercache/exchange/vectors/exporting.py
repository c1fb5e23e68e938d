"""A vector in another tool's format."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from steercache.cache.vector_files import header_of, vector_bytes, vector_of
from steercache.core.errors import UsageError
from steercache.core.vector_use import VectorUse
from steercache.core.vectors import SteeringVector
from steercache.exchange.vectors.arrays import npz_bytes
from steercache.exchange.vectors.expressed import Expressed, express
from steercache.exchange.vectors.formats import FORMATS, VectorFormat, format_of
from steercache.exchange.vectors.gguf import gguf_bytes
from steercache.exchange.vectors.saklas import saklas_files
from steercache.exchange.vectors.script import script_files
from steercache.exchange.vectors.torch_formats import lm_eval_bytes, steering_vectors_bytes
from steercache.exchange.vectors.vllm import easysteer_spec, vllm_lens_bytes
from steercache.store.durable import write_file_atomically


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedVector:
    """The files that were written, the one for the other tool first; what a person should know about using them."""

    format: VectorFormat
    paths: tuple[Path, ...]
    layers: tuple[int, ...]
    notes: tuple[str, ...] = ()


def export_vector(
    vector: SteeringVector,
    path: Path,
    *,
    to: str | None = None,
    use: VectorUse | None = None,
    layers: Sequence[int] | Literal["all"] | None = None,
    scaled: bool = False,
    blocks: str | None = None,
    overwrite: bool = False,
) -> ExportedVector:
    """Write `vector` in the format `to` (by the file's name, where that says it).

    `use` stands in for the vector's own, `layers` for those of the use. `scaled` writes values times the recommended strength.
    `blocks` is the path of the decoder blocks below `model.base_model`, for formats that name modules (default: layers).

    Raises:
        UsageError: the format cannot express the vector, with every reason; an unknown format; a file that is there.
    """
    format_ = format_of(path, to)
    consumer = FORMATS[format_].consumer
    if consumer is None:
        raise UsageError(
            f"vectors are read from {format_} and not written", hint=f"choose one of: {', '.join(FORMATS)}"
        )
    if path.suffix.lower() not in FORMATS[format_].suffixes[:1]:
        raise UsageError(
            f"a file of {format_} ends in {FORMATS[format_].suffixes[0]}", place=str(path), hint="name it so"
        )
    out = express(vector, consumer, use=use, layers=layers, scaled=scaled)
    files, notes = _files(out, format_, path, head=_head(out, use, scaled=scaled), blocks=blocks)
    if not path.parent.is_dir():
        raise UsageError("no such folder", place=str(path.parent))
    there = [one for one in files if one.exists()]
    if there and not overwrite:
        raise UsageError("is there already", place=str(there[0]), hint="choose another name, or ask to overwrite it")
    for one, data in reversed(files.items()):
        write_file_atomically(one, data)
    return ExportedVector(format=format_, paths=tuple(files), layers=tuple(out.directions), notes=(*out.notes, *notes))


def _head(out: Expressed, use: VectorUse | None, *, scaled: bool) -> dict[str, Any]:
    """The vector's header with the use that goes out; it says what was multiplied."""
    stated = out.vector.use if use is None else use
    vector = (
        out.vector
        if stated is None
        else replace(out.vector, use=out.vector.prompted(replace(stated, layers=tuple(out.directions))))
    )
    head = header_of(vector)
    return head | ({"scaled": True} if scaled else {})


def _files(
    out: Expressed, format_: VectorFormat, path: Path, *, head: Mapping[str, Any], blocks: str | None
) -> tuple[dict[Path, bytes], tuple[str, ...]]:
    """The bytes of every file, and what to tell."""
    if format_ == "gguf":
        return {path: gguf_bytes(out, head=head)}, _factor_note(out, f"--control-vector-scaled {path.name}:FACTOR")
    if format_ == "steering-vectors":
        return {path: steering_vectors_bytes(out, head=head)}, (
            f"SteeringVector(**torch.load({path.name!r})) makes the object",
            *_factor_note(out, "multiplier=FACTOR"),
        )
    if format_ == "lm-eval":
        return {path: lm_eval_bytes(out, head=head, blocks=blocks)}, (
            f"--model steered --model_args pretrained=MODEL,steer_path={path.name}",
        )
    if format_ == "saklas":
        if out.multiples is not None:
            raise UsageError(
                f"saklas cannot express the strength of {out.vector.name!r}: it brings every direction to a length of its own",
                hint="export a use without a strength: the direction alone",
            )
        tensors, sidecar = saklas_files(out, head=head)
        note = "saklas takes the direction and the layers' shares; its strength is in units of its own"
        return {path: tensors, path.with_suffix(".json"): sidecar}, (note,)
    if format_ == "easysteer":
        data = gguf_bytes(out, head=head, extra={"controlvector.method": out.vector.method})
        spec = path.with_suffix(".json")
        return {path: data, spec: easysteer_spec(out, source=path.name)}, (f"--steering-config {spec.name}",)
    if format_ == "vllm-lens":
        return {path: vllm_lens_bytes(out, head=head)}, ('the text of extra_args["apply_steering_vectors"]',)
    if format_ == "pytorch":
        values = path.with_suffix(".safetensors")
        script, tensors = script_files(out, script_name=path.name, values_name=values.name, blocks=blocks)
        return {path: script, values: tensors}, (f'python {path.name} MODEL "a prompt"',)
    if format_ == "npz":
        return {path: npz_bytes(out, head=head)}, ()
    if head.get("scaled") or len(out.directions) != len(out.vector.layers):
        raise UsageError(
            "a safetensors file of steercache holds the vector as it is", hint="all layers, not multiplied; or npz"
        )
    return {path: vector_bytes(vector_of(head, out.vector.values))}, ()


def _factor_note(out: Expressed, how: str) -> tuple[str, ...]:
    """What the consumer has to be told, where the strength is not in the file."""
    found = sorted(set((out.multiples or {}).values()))
    if found in ([], [1.0]):
        return ()
    if len(found) > 1:
        raise UsageError(
            f"{out.vector.name!r} has another strength at every layer ({found[0]:g} to {found[-1]:g} times its values), and "
            "the file holds none",
            hint="write the values multiplied by the strength (scaled), or name one layer",
        )
    return (
        f"the file holds no strength; the recommended factor is {found[0]:.9g}: {how.replace('FACTOR', f'{found[0]:.9g}')}",
    )
