"""One kind of model as a row of names, and the modules that such names mean."""

from dataclasses import dataclass
from typing import Any, Literal

from steercache.core.errors import NotFoundError, UsageError

Modality = Literal["text", "image", "audio"]
Positions = Literal["from_mask", "one_based", "internal"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One kind of model. Paths are dotted names from the loaded model, or, for `attn_out` and `mlp_out`, from a block. A type
    written `a/b` is that of models of type `a` whose vision tower is of type `b`.

    `attn_out` and `mlp_out` are the modules whose output is added to the residual stream: in Gemma 2 and 3 those are the
    norms after attention and MLP; "" where the residual stream is not the sum of two parts. A multimodal row takes them, and
    all that the text model decides, from that one's row.
    `positions` says who makes position ids: we do, from the attention mask (0- or 1-based), or the model's own forward.
    `needs` are the image processor's outputs that the forward wants. `token_types` names a per-token input and its rule:
    "image" is 1 on image tokens, "marks" on those and the tokens of `marks`, "suffix" is 0 on the prompt, read in both
    directions, and 1 on what follows it. With `deepstack` the decoder adds features of the pictures to the outputs of its first
    blocks; a block's output is what it is before that sum (`steering.deepstack`). One row of the table below: most columns have
    the value of Llama.
    """

    name: str
    model_types: tuple[str, ...]
    blocks: str = "model.layers"
    embed: str = "model.embed_tokens"
    final_norm: str = "model.norm"
    attn_out: str = "self_attn"
    mlp_out: str = "mlp"
    lm_head: str = "lm_head"
    sdpa: bool = True  # whether its attention can run as torch's fused one; soft-capped scores cannot
    modality: Modality = "text"
    positions: Positions = "from_mask"
    vision: str | None = None
    connector: str | None = None
    special_tokens: tuple[str, ...] = ()  # patterns, beside those that the tokenizer itself calls special
    tower_width: str = "hidden_size"  # what the vision configuration calls the width of its tower's output
    patches: str | None = None  # how image tokens lie on the picture: a name in trace.patches
    needs: tuple[str, ...] = ()
    token_types: tuple[str, str] | None = None
    placeholder: str = "{image}"  # where a picture stands in a prompt without a chat template
    text_beside_pictures: bool = False  # its processor takes pictures only with a text of their placeholders
    shared_mark: str | None = None  # stands on both sides of each view of a picture, once where two views meet
    tiles_joined: bool = (
        False  # whether the forward wants the tiles of all pictures along one axis, and gets them by picture
    )
    audio: str | None = None  # where a sound stands in a prompt without a chat template; None: it hears none
    audio_needs: tuple[str, ...] = ()  # outputs of the processor that the forward wants of sounds
    audio_chunks: bool = False  # its processor puts no sounds into prompts: as many tokens for every begun chunk
    frames_per_token: int = 1  # steps of a sound's spectrogram that an audio token stands for
    video: str | None = None  # the same of a video, as `trace.videos` reads it; None: its videos are not read here
    frames: str = "timed"  # how a video's frames stand in a prompt: a name in models.video_settings
    marks: tuple[str, ...] = ()  # tokens that its per-token input counts as the picture's, with the rule "marks"
    bos_before: bool = False  # its processor writes BOS, or EOS where there is none, before a prompt without it
    bos_in_text: bool = False  # its processor switches the tokenizer's own BOS off and writes it into the prompt
    text_logits: bool = True  # whether it scales and caps its logits as the text model's configuration says
    tuples: bool = False  # whether a block returns a tuple that begins with the hidden states
    stream: str | None = None  # the text configuration's number of the one of several residual streams that is read
    deepstack: str | None = (
        None  # the vision configuration's list of as many tower blocks as decoder blocks get features
    )
    derived: bool = False  # it, or its text model, is not in the table: read from its class, proven when loaded


@dataclass(frozen=True, slots=True)
class Evidence:
    """One claim about a model's structure, whether it holds, and what was seen."""

    claim: str
    holds: bool
    seen: str


def find_part(block: Any, paths: str) -> Any:
    """Of a block, the first of the modules named, alternatives joined by `|` (blocks of a hybrid model differ)."""
    names = paths.split("|")
    return find_module(block, next((name for name in names if hasattr(block, name)), names[-1]))


def find_module(model: Any, path: str) -> Any:
    """The submodule at a dotted path, such as `model.layers`.

    Raises:
        UsageError: the model is wrapped by an adapter, or is one without its language-model head.
        NotFoundError: the model has no such module (a class of another transformers version).
    """
    module = model
    for i, name in enumerate(path.split(".")):
        if not hasattr(module, name):
            _refuse_wrapped_or_bare(model, path)
            at = ".".join(path.split(".")[:i]) or type(model).__name__
            raise NotFoundError(
                f"{type(model).__name__} has no module {path!r}: {at} has no {name!r}",
                hint="load the model with AutoModelForCausalLM, or AutoModelForImageTextToText where it reads pictures; if"
                " it was, this version of transformers has another layout than the ones known here",
            )
        module = getattr(module, name)
    return module


def _refuse_wrapped_or_bare(model: Any, path: str) -> None:
    """Raises UsageError where the reason why a module is not at its path is known."""
    kind = type(model).__name__
    if hasattr(model, "peft_config") and hasattr(model, "get_base_model"):
        raise UsageError(
            f"{kind} is an adapter (PEFT) around a model, which changes its weights",
            hint="merge it: `model.merge_and_unload()` gives one model; vectors are then fitted on a run of that one",
        )
    inner: Any = model
    for name in path.split(".")[1:]:
        inner = getattr(inner, name, None)
    if "." in path and inner is not None:
        raise UsageError(
            f"{kind} is the bare model, without its language-model head",
            hint="load it with AutoModelForCausalLM, or AutoModelForImageTextToText where it reads pictures",
        )
