"""An example as the text that the model reads: bare, or through the tokenizer's chat template."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import jinja2

from steercache.core.errors import SteercacheError, UsageError
from steercache.core.examples import Example
from steercache.models.spec import TokenizerBundle
from steercache.trace.clock import frozen_clock

MARK = "\ue000steercache\ue001"  # private-use characters: in nobody's template
KNOWN_FORMS = 1024  # system prompts, mostly one
_RANDOM: Final = re.compile(r"\|\s*random\b|\blipsum\s*\(")  # what jinja2 draws with Python's `random`
_Form = tuple[str, str, str]  # what stands before an example's own text, MARK in its place, and what follows


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedPrompt:
    """The text, where the example's own text begins in it, and whether the tokenizer still adds BOS and the like.

    `template_date` is the date that the chat template saw (ISO 8601); None where it did not look at the clock.
    """

    text: str
    start: int
    add_special: bool
    template_date: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedTurn:
    """A rendered user's turn, and the date that the template saw (ISO 8601); None where it did not look at the clock."""

    text: str
    template_date: str | None


class TemplateError(Exception):
    """The chat template cannot render this example."""


def render(example: Example, bundle: TokenizerBundle) -> RenderedPrompt:
    """The text that the model reads; `completion` follows the prompt.

    Raises:
        TemplateError: the chat template refuses the example, or changes its text.
        UsageError: a chat is rendered and the tokenizer has no template.
    """
    if not example.chat:
        bos = bundle.tokenizer.bos_token if bundle.family.bos_in_text else bos_before(example.text, bundle)
        return RenderedPrompt(text=bos + example.text + example.completion, start=len(bos), add_special=True)
    turn = apply_template(bundle, example.text, system=example.system)
    start = own_start(
        turn.text,
        example.text,
        bundle,
        key=("text", example.system),
        marked=lambda: apply_template(bundle, MARK, system=example.system).text,
    )
    text = turn.text + example.completion
    return RenderedPrompt(text=text, start=start, add_special=False, template_date=turn.template_date)


def bos_before(prompt: str, bundle: TokenizerBundle) -> str:
    """What a family's processor writes before a prompt that does not begin with it: Molmo2's BOS, or EOS where it has none."""
    if not bundle.family.bos_before:
        return ""
    bos: str = bundle.tokenizer.bos_token or bundle.tokenizer.eos_token
    return "" if prompt.startswith(bos) else bos


def own_start(prompt: str, own: str, bundle: TokenizerBundle, *, key: Any, marked: Callable[[], str]) -> int:
    """Where an example's own text begins in `prompt`. `marked` makes the prompt with MARK in the text's place, which is the
    same for every example with this `key`.

    Raises:
        TemplateError: the text does not stand there as it was.
    """
    start = _start_within(prompt, own, bundle.forms.get(key))
    if start is None:  # not met before
        if len(bundle.forms) >= KNOWN_FORMS:
            bundle.forms.clear()
        bundle.forms[key] = marked().partition(MARK)
        start = _start_within(prompt, own, bundle.forms[key])
    if start is None:
        raise TemplateError("the prompt's form changes the text, so that characters cannot be followed into it")
    return start


def _start_within(prompt: str, own: str, form: _Form | None) -> int | None:
    before, mark, after = form or ("", "", "")
    for text, cut in ((own, 0), (own.strip(), len(own) - len(own.lstrip()))):  # some templates trim the turn
        if mark and prompt == before + text + after:
            return len(before) - cut
    return None


def apply_template(
    bundle: TokenizerBundle,
    user: str,
    *,
    system: str | None,
    n_images: int = 0,
    n_videos: int = 0,
    n_sounds: int = 0,
) -> RenderedTurn:
    """One user's turn, pictures, videos and sounds first, after a system prompt if there is one, with the generation prompt.

    The template's clock shows midnight of the bundle's `template_date`.

    Raises:
        TemplateError: the template fails, whatever it raises, or is random. UsageError: there is no template.
    """
    holder = bundle.processor if getattr(bundle.processor, "chat_template", None) else bundle.tokenizer
    if holder is None or not holder.chat_template:
        raise UsageError(
            "the tokenizer has no chat template",
            hint="`chat_template: FILE` in the model manifest, or `chat: {apply: false}` in the data set's",
        )
    said: list[tuple[str, Any]] = [("system", system), ("user", user)] if system is not None else [("user", user)]
    if bundle.family.modality != "text":  # templates of multimodal models look for typed parts
        said = [(who, [{"type": "text", "text": text}]) for who, text in said]
        counts = (("image", n_images), ("video", n_videos), ("audio", n_sounds))
        shown = [{"type": kind} for kind, n in counts for _ in range(n)]
        said[-1] = (said[-1][0], shown + said[-1][1])
    turns = [{"role": who, "content": content} for who, content in said]
    if _draws(str(holder.chat_template)):
        raise TemplateError(f"{_template_name(bundle)} is random, so that the prompt is another one each time")
    with frozen_clock(bundle.template_date) as readings:
        try:
            prompt: str = holder.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        except (SteercacheError, MemoryError):
            raise
        except Exception as error:  # a template is a program of its own: it can raise anything
            raise TemplateError(f"{_template_name(bundle)} {_failure(error)}") from error
    prompt = bos_before(prompt, bundle) + prompt
    return RenderedTurn(text=prompt, template_date=bundle.template_date.isoformat() if readings.n else None)


@lru_cache(maxsize=16)
def _draws(template: str) -> bool:
    return bool(_RANDOM.search(template))


def _template_name(bundle: TokenizerBundle) -> str:
    origin = f" ({bundle.template_file})" if bundle.template_file else ""
    return f"the chat template of model {bundle.spec.name}{origin}"


def _failure(error: Exception) -> str:
    """What went wrong in a template: its own words where it refuses the input, else the type of the error too."""
    line = getattr(error, "lineno", None)
    where = f" in its line {line}" if isinstance(line, int) else ""
    said = str(error).strip().splitlines()
    what = f": {said[0]}" if said else ""
    if type(error) is jinja2.TemplateError:  # `raise_exception(...)` in the template
        return f"refuses it{what}"
    return f"fails{where} with {type(error).__name__}{what}"
