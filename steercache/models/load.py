"""A model manifest to a model in memory, or to its tokenizer alone."""

import datetime
import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMultimodalLM

from steercache.core.activity import announce
from steercache.core.errors import (
    BudgetError,
    BusyError,
    DamagedError,
    ManifestError,
    MissingExtraError,
    NotFoundError,
    SteercacheError,
    UsageError,
)
from steercache.core.excerpts import first_line_of, reason_of
from steercache.core.layout import DType
from steercache.manifests.model import ModelManifest
from steercache.models.checkpoint import find_checkpoint
from steercache.models.checkpoint_folder import Checkpoint
from steercache.models.companions import refuse_incomplete
from steercache.models.ends import read_end_ids
from steercache.models.families import family_of, is_known
from steercache.models.family import Family
from steercache.models.identity import backbone_fingerprints, fingerprint_of, kin_of
from steercache.models.memo import Stamp, file_stamp
from steercache.models.quantised import EXTRAS, fingerprint_at_load, quantised_of, stored_settings
from steercache.models.quantised_modules import loading_config, refuse_misread, settle
from steercache.models.quiet import SAFE, quiet
from steercache.models.recognise import evidence_of, family_of_config, may_be_derived
from steercache.models.slow_dtype import warn_if_slow
from steercache.models.spec import LoadedModel, ModelSpec, TokenizerBundle
from steercache.models.tokenizers import read_tokenizer, set_template, special_ids, tokenizer_digest
from steercache.models.video_settings import read_video_settings
from steercache.models.weight_files import tensors_of
from steercache.models.whole import quantisation, refuse_codes, refuse_partial

TORCH_DTYPES: dict[DType, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_OURS = frozenset({"accelerate", "gguf", "nnsight", "PIL", "tokenizers", "torch", "transformers"})  # extra `models`
_UNQUANTISED = "use a copy of the model whose weights are not quantised"
_NOT_QUANTISED = "leave `quantization` out of the model manifest"
_FILE_DTYPES: dict[str, DType] = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


def load_bundle(
    manifest: ModelManifest, *, cache_dir: Path, base_dir: Path | None = None, dtype: str = "auto"
) -> TokenizerBundle:
    """Tokenizer, processor, configuration and fingerprint of a model, without its weights in memory.

    `cache_dir` is the cache's root (conversions and memos go to its `models/`), `base_dir` the manifest's own folder.
    `dtype` overrides the manifest's.

    Raises:
        NotFoundError, DamagedError, ManifestError, MissingExtraError, UsageError: as the message says.
    """
    return _open(manifest, cache_dir=cache_dir, base_dir=base_dir, dtype=dtype).bundle


def load_model(
    manifest: ModelManifest,
    *,
    cache_dir: Path,
    base_dir: Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
    device_map: str | Mapping[str, Any] | None = None,
) -> LoadedModel:
    """The model in eval mode without gradients, on `device` or spread by `device_map` (see accelerate).

    Warns (`SlowDtypeWarning`) where the CPU has no units for the dtype.

    Raises:
        as `load_bundle`, BudgetError when it does not fit into memory, and NotFoundError when its type is not in the table of
            families and what was derived from its class does not hold (`models.proof`).
    """
    opened = _open(manifest, cache_dir=cache_dir, base_dir=base_dir, dtype=dtype)
    bundle = opened.bundle
    if device_map is not None and importlib.util.find_spec("accelerate") is None:
        raise MissingExtraError("`device_map` needs accelerate", hint="pip install accelerate")
    place = None if device_map is not None else resolve_device(device)
    announce(f"loading {bundle.spec.name}")
    autos: dict[str, Any] = {"image": AutoModelForImageTextToText, "audio": AutoModelForMultimodalLM}
    auto = autos.get(bundle.family.modality, AutoModelForCausalLM)
    computed_in, quantised = TORCH_DTYPES[bundle.spec.dtype], bundle.spec.quantised
    with _explaining(manifest, opened.checkpoint):
        model, info = auto.from_pretrained(
            opened.checkpoint.folder,
            dtype=computed_in,
            attn_implementation=bundle.spec.attention,
            device_map=device_map if quantised is None or place is None else {"": str(place)},  # few can be moved later
            **(
                {}
                if manifest.quantization is None
                else {"quantization_config": loading_config(manifest.quantization, computed_in)}
            ),
            **SAFE,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are in the loading info then, by name
        )
        refuse_partial(info, model, opened.checkpoint)
        opened.refuse_changed()
        if quantised is not None:
            settle(model, one_device=device_map is None)
            refuse_misread(model, opened.checkpoint, quantised, computed_in)
        model = model.eval().requires_grad_(False)
        if place is not None and not _is_placed(model, place):
            model = model.to(place)
    warn_if_slow(model)
    if not bundle.family.derived:
        return LoadedModel(model=model, bundle=bundle)
    announce(f"proving what was derived from the class of {bundle.spec.name}")
    family, evidence = evidence_of(model)
    return LoadedModel(model=model, bundle=replace(bundle, family=family), evidence=evidence)


def _is_placed(model: Any, place: torch.device) -> bool:
    """Whether a quantised model, which often refuses to be moved, is on the device already."""
    return getattr(model, "hf_quantizer", None) is not None and model.device.type == place.type


def resolve_device(device: str) -> torch.device:
    """`auto` is the first accelerator there is, else the CPU.

    Raises:
        UsageError: no such device here.
    """
    if device == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(name)
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"no device {device!r} on this machine: {first_line_of(error)}", hint="choose auto or cpu"
        ) from error
    return place


def _stamps(checkpoint: Checkpoint) -> dict[Path, Stamp]:
    return {path: file_stamp(path) for path in (checkpoint.folder / "config.json", *checkpoint.files)}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opened:
    """A checkpoint on disk and what was read of it."""

    checkpoint: Checkpoint
    bundle: TokenizerBundle = field(repr=False)
    stamps: dict[Path, Stamp] = field(repr=False)

    def refuse_changed(self) -> None:
        """Raises BusyError if a file was replaced since its content was hashed: the fingerprint would be of other weights."""
        changed = [path.name for path, stamp in _stamps(self.checkpoint).items() if stamp != self.stamps.get(path)]
        if changed:
            raise BusyError(
                f"{', '.join(changed[:3])} changed while the model was loaded",
                place=str(self.checkpoint.folder),
                hint="wait until the folder is written, then try again",
            )


def _open(manifest: ModelManifest, *, cache_dir: Path, base_dir: Path | None, dtype: str) -> _Opened:
    wanted = _named_dtype(manifest, dtype)
    checkpoint = find_checkpoint(manifest, cache_dir=cache_dir, base_dir=base_dir, dtype=wanted)
    stamps = _stamps(checkpoint)
    family = _family(manifest, checkpoint)
    refuse_codes(checkpoint)
    refuse_incomplete(checkpoint)
    quantised = quantised_of(manifest, checkpoint)
    with _explaining(manifest, checkpoint):
        config = AutoConfig.from_pretrained(checkpoint.folder, **SAFE)
        tokenizer, processor = read_tokenizer(checkpoint.folder, processed=family.modality != "text")
        ends = read_end_ids(checkpoint.folder, config, tokenizer)
        video = None if family.video is None else read_video_settings(checkpoint.folder, family.frames)
    set_template(manifest, base_dir or Path(), tokenizer=tokenizer, processor=processor)
    text_config = config.get_text_config()
    vision_config = getattr(config, "vision_config", None)
    stored = fingerprint_of(checkpoint, cache_dir)
    spec = ModelSpec(
        name=manifest.name,
        model_id=checkpoint.model_id,
        fingerprint=fingerprint_at_load(stored, manifest.quantization),
        family=family.name,
        modality=family.modality,
        backbone=manifest.backbone,
        n_layers=int(text_config.num_hidden_layers),
        hidden_size=int(text_config.hidden_size),
        vision_size=None if vision_config is None else int(getattr(vision_config, family.tower_width)),
        vocab_size=int(text_config.vocab_size) + int(getattr(text_config, "additional_vocab_size", 0)),
        dtype=wanted or _own_dtype(manifest, checkpoint),
        attention=_attention(manifest, family),
        tokenizer_digest=tokenizer_digest(tokenizer, processor),
        kin=(*kin_of(checkpoint, cache_dir), *([stored] if manifest.quantization is not None else [])),
        backbone_fingerprints=backbone_fingerprints(manifest, cache_dir=cache_dir, base_dir=base_dir),
        quantised=quantised,
    )
    bundle = TokenizerBundle(
        tokenizer=tokenizer,
        processor=processor,
        config=config,
        family=family,
        spec=spec,
        special_ids=special_ids(tokenizer, family),
        template_date=manifest.template_date or datetime.date.today(),
        template_file=(base_dir or Path()) / manifest.chat_template if manifest.chat_template else None,
        end_ids=ends,
        video=video,
    )
    return _Opened(checkpoint=checkpoint, bundle=bundle, stamps=stamps)


def _family(manifest: ModelManifest, checkpoint: Checkpoint) -> Family:
    try:
        if is_known(checkpoint.config) or not may_be_derived(checkpoint.config):
            family = family_of(checkpoint.config)
        else:
            with _explaining(manifest, checkpoint):
                family = family_of_config(AutoConfig.from_pretrained(checkpoint.folder, **SAFE))
    except NotFoundError as error:
        remote = " (it asks for code of its own, which is never run)" if checkpoint.config.get("auto_map") else ""
        raise NotFoundError(error.message + remote, place=str(checkpoint.folder), hint=error.hint) from None
    if manifest.family not in (None, family.name):
        raise ManifestError(
            f"the manifest says family {manifest.family!r}, the checkpoint is {family.name!r}",
            place=manifest.name,
            hint="leave `family` out",
        )
    return family


def _attention(manifest: ModelManifest, family: Family) -> str:
    """The implementation that the manifest names; when it names none, the fastest that computes what the model means."""
    if "attention" in manifest.model_fields_set or family.sdpa:
        return manifest.attention
    return "eager"


def _named_dtype(manifest: ModelManifest, asked: str) -> DType | None:
    """The dtype to compute in that the call names, else the manifest; None where neither does.

    Raises:
        UsageError: it is none that we compute in.
    """
    return next((found for name in (asked, manifest.dtype) if (found := _dtype_of(name, manifest)) is not None), None)


def _dtype_of(name: Any, manifest: ModelManifest) -> DType | None:
    if name in TORCH_DTYPES:
        return cast(DType, name)
    if name not in (None, "auto"):
        raise UsageError(
            f"cannot compute in {name!r}", place=manifest.name, hint=f"choose one of: {', '.join(TORCH_DTYPES)}"
        )
    return None


def _own_dtype(manifest: ModelManifest, checkpoint: Checkpoint) -> DType:
    """The dtype that a checkpoint's configuration names, else that of most of its weights."""
    config = checkpoint.config
    text = config.get("text_config") or {}
    for name in (c.get(key) for c in (config, text) for key in ("dtype", "torch_dtype")):
        if (found := _dtype_of(name, manifest)) is not None:
            return found
    sizes: dict[str, int] = {}
    for entry in tensors_of(checkpoint.files).values():
        if entry["dtype"] not in _FILE_DTYPES and stored_settings(config) is not None:
            continue  # codes
        begin, end = entry["data_offsets"]
        sizes[entry["dtype"]] = sizes.get(entry["dtype"], 0) + end - begin
    most = max(sizes, key=lambda name: sizes[name], default="F32")
    return _FILE_DTYPES.get(most, "float32")


@contextmanager
def _explaining(manifest: ModelManifest, checkpoint: Checkpoint) -> Iterator[None]:
    """Turn what transformers raises over a checkpoint into an error with a place and a way out."""
    place = str(checkpoint.folder)
    try:
        with quiet():
            yield
    except (SteercacheError, KeyboardInterrupt):
        raise
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise BudgetError(
            "the model does not fit into memory", place=place, hint="load it in bfloat16, or take a smaller model"
        ) from error
    except ImportError as error:
        raise _missing_package(error, manifest, checkpoint) from error
    except Exception as error:  # anything: the files are outside input to a library that raises what it likes
        if "scaled_dot_product_attention" in str(error) or "attn_implementation" in str(error):
            hint = "`attention: eager` in the model manifest (Gemma 2 soft-caps its attention, which sdpa cannot)"
            raise UsageError(f"it cannot run with attention {manifest.attention!r}", place=place, hint=hint) from error
        if "trust_remote_code" in str(error):
            raise ManifestError(
                "it needs code of its own, which is never run",
                place=place,
                hint="choose a model that transformers knows",
            ) from error
        if "Missing optional dependencies" in str(error):
            hint = "install the package that is named (`pip install torchvision`)"
            raise MissingExtraError(reason_of(error), place=place, hint=hint) from error
        if (method := _method(manifest, checkpoint)) is not None:
            raise ManifestError(
                f"its weights are quantised ({method}) and transformers cannot load them here: {_told_why(error)}",
                place=place,
                hint=_NOT_QUANTISED if manifest.quantization is not None else _UNQUANTISED,
            ) from error
        raise DamagedError(
            f"transformers cannot load it: {reason_of(error)}", place=place, hint="fetch the model again"
        ) from error


def _missing_package(error: ImportError, manifest: ModelManifest, checkpoint: Checkpoint) -> MissingExtraError:
    """What is not installed, in transformers' words, and how to get it; only some of it is in an extra of ours."""
    message, method = reason_of(error), _method(manifest, checkpoint)
    if (error.name or "").partition(".")[0] in _OURS:
        hint = "pip install 'steercache[models]'"
    elif method is not None:
        message = f"its weights are quantised ({method}): {message}"
        install = (
            f"pip install 'steercache[{EXTRAS[method]}]'" if method in EXTRAS else "install the package that is named"
        )
        hint = f"{install}, or {_NOT_QUANTISED if manifest.quantization is not None else _UNQUANTISED}"
    else:
        hint = "install the package that is named"
    return MissingExtraError(message, place=str(checkpoint.folder), hint=hint)


def _method(manifest: ModelManifest, checkpoint: Checkpoint) -> str | None:
    return quantisation(checkpoint.config) or (manifest.quantization.method if manifest.quantization else None)


def _told_why(error: Exception) -> str:
    """The reason of an error, and what it was raised over where transformers only says that there was one."""
    inner = error.__cause__ or error.__context__
    return reason_of(error) + (f" ({reason_of(inner)})" if isinstance(inner, Exception) else "")
