"""Tokenizer and processor of a checkpoint: reading them, their special tokens, their content as one hash."""

import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from transformers import AutoConfig, AutoTokenizer
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.processing_utils import ProcessorMixin

from steercache.core.errors import ManifestError, NotFoundError
from steercache.core.ids import digest
from steercache.manifests.model import ModelManifest
from steercache.models.family import Family
from steercache.models.fingerprint import meaning
from steercache.models.quiet import SAFE


def read_tokenizer(folder: Path, *, processed: bool) -> tuple[Any, Any]:
    """Tokenizer and processor; a text model has no processor (`processed` is False).

    Raises:
        ManifestError: the tokenizer gives no character offsets.
    """
    found = _read_processor(folder) if processed else _read_tokenizer(folder)
    tokenizer, processor = (found.tokenizer, found) if processed else (found, None)
    if not tokenizer.is_fast:
        raise ManifestError(
            f"its tokenizer ({type(tokenizer).__name__}) gives no character offsets; a tokenizer.json is needed",
            place=str(folder),
            hint="save it with `AutoTokenizer.from_pretrained(..., use_fast=True).save_pretrained(...)`",
        )
    return tokenizer, processor


def _read_tokenizer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder, **_settings(folder))


def _settings(folder: Path) -> dict[str, Any]:
    """How transformers is to read it. Where mistral-common is installed it would read tekken.json through that, without
    offsets; its own reader makes the same tokens."""
    return SAFE | ({"mistral_format": False} if (folder / "tekken.json").is_file() else {})


def _read_processor(folder: Path) -> Any:
    """The processor for the checkpoint's type, without its part for videos.

    We show a model still pictures, and transformers' video processors need torchvision, which nothing else here does.
    """
    config = AutoConfig.from_pretrained(folder, **SAFE)
    if getattr(getattr(config, "vision_config", None), "model_type", None) == "pixtral":
        return pixtral_processor().from_pretrained(folder, **_settings(folder))
    known: Any = PROCESSOR_MAPPING[type(config)]
    attributes = [name for name in known.get_attributes() if name != "video_processor"]
    if attributes == known.get_attributes():
        return known.from_pretrained(folder, **_settings(folder))
    with _numbers_as_words(known):
        processor = stills_of(known).from_pretrained(folder, **_settings(folder))
    processor.__class__ = known  # its own class again, so that workers can unpickle it
    # SmolVLM's chat template looks at these two, whether there is a video or not
    processor.video_processor = (
        SimpleNamespace(num_frames=None, fps=None) if known.__name__ == "SmolVLMProcessor" else None
    )
    return processor


class _WithoutVideos(ProcessorMixin):
    """Stands between a processor's class and transformers' own, which refuses a part that is not among the attributes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.pop("video_processor", None)
        if len(args) > len(self.get_attributes()):  # type: ignore[no-untyped-call]  # Molmo2 has it between the others
            args = tuple(one for one in args if one is not None)
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]


def stills_of(known: Any) -> Any:
    """A processor's class without its part for videos; one that asks for that part gets None."""
    attributes = [name for name in known.get_attributes() if name != "video_processor"]
    members: dict[str, Any] = {"get_attributes": classmethod(lambda cls: attributes)}
    parameters = {name: one for name, one in inspect.signature(known.__init__).parameters.items() if name != "self"}
    at = list(parameters).index("video_processor")  # Molmo2's stands before its tokenizer
    if parameters["video_processor"].default is inspect.Parameter.empty or at < len(attributes):
        read = known.from_args_and_dict.__func__
        members["from_args_and_dict"] = classmethod(
            lambda cls, args, *more, **kw: read(cls, [*args[:at], None, *args[at:]], *more, **kw)
        )
    return type(known.__name__, (known, _WithoutVideos), members)


@contextmanager
def _numbers_as_words(known: Any) -> Iterator[None]:
    """SmolVLM's processor is not made without num2words, which writes the number of a video's frames."""
    module: Any = sys.modules[known.__module__]
    missing = getattr(module, "num2words", module) is None
    if missing:
        module.num2words = str
    try:
        yield
    finally:
        if missing:
            module.num2words = None


def pixtral_processor() -> Any:
    """The class of Pixtral's and Mistral 3's processor. Its module takes one function from the image processor that needs
    torchvision; where that is not installed, it gets the same function of the one that needs Pillow alone."""
    folder = "transformers.models.pixtral"
    name = f"{folder}.image_processing_pixtral"
    lent = importlib.util.find_spec("torchvision") is None and name not in sys.modules
    if lent:
        sys.modules[name] = importlib.import_module(f"{folder}.image_processing_pil_pixtral")
    try:
        return importlib.import_module(f"{folder}.processing_pixtral").PixtralProcessor
    finally:
        if lent:
            del sys.modules[name]


def set_template(manifest: ModelManifest, base_dir: Path, *, tokenizer: Any, processor: Any) -> None:
    """Replace the chat template by the manifest's file, when it names one."""
    if manifest.chat_template is None:
        return
    path = base_dir / manifest.chat_template
    try:
        template = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise NotFoundError(
            f"no readable chat template: {error}", place=str(path), hint="mend `chat_template`"
        ) from error
    tokenizer.chat_template = template
    if processor is not None:
        processor.chat_template = template


def special_ids(tokenizer: Any, family: Family) -> tuple[int, ...]:
    """Ids that mark structure rather than text: the tokenizer's special tokens and the family's own, ascending."""
    patterns = [re.compile(pattern) for pattern in family.special_tokens]
    ids = {*tokenizer.all_special_ids}
    for token_id, token in tokenizer.added_tokens_decoder.items():
        if token.special or any(pattern.fullmatch(token.content) for pattern in patterns):
            ids.add(token_id)
    return tuple(sorted(ids))


def tokenizer_digest(tokenizer: Any, processor: Any) -> str:
    """Hash of what turns text and pictures into a model's input: vocabulary, rules, special tokens, templates, sizes."""
    said = {
        "tokenizer": tokenizer.backend_tokenizer.to_str(),
        "special": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "template": tokenizer.chat_template,
        "processor": None if processor is None else meaning(_plain(processor.to_dict())),
        "processor_template": getattr(processor, "chat_template", None),
    }
    return digest(said)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
