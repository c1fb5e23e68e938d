"""The part of a model's output that holds its answer, as plain text: containers opened, markup and special tokens removed.

Containers, in this order: what follows a `<think>` block, `<answer>` tags, LaTeX `\\boxed{}`, JSON with an `answer` key, and
the words after "the answer is". Text outside of a container is not read.
"""

import json
import re
import unicodedata
from collections.abc import Mapping
from typing import Any, Final

JSON_KEYS: Final = (
    *("answer", "final_answer", "final answer", "finalanswer", "choice", "option", "letter", "label"),
    *("count", "number", "total", "result", "response", "value"),
)
ENDS: Final = 600  # characters of a long text that are read, at its beginning and at its end
_QUOTES: Final = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "⁄": "/", "×": "x", "\ufe0f": "", "\u20e3": ""})
_BRACKETS: Final = str.maketrans({"【": "[", "】": "]", "「": "(", "」": ")", "『": "(", "』": ")"})
_NOT_APPLICABLE: Final = re.compile(r"\bn/a\b", re.IGNORECASE)
_POINTER: Final = re.compile(
    r"\b(see|as|mentioned|shown|described|listed|given) (?:above|below)(?=\s*(?:$|[.,;:!?)]))", re.IGNORECASE
)
_SUPERSCRIPT: Final = re.compile("[²³¹⁰-⁹₀-₉]+")
_THINK: Final = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|$)", re.DOTALL | re.IGNORECASE)
_TAG: Final = re.compile(r"<answer>(.*?)(?:</answer>|$)", re.DOTALL | re.IGNORECASE)
_END: Final = re.compile(r"</s>|<eos>|<end_of_turn>|<\|(?:im_end|eot_id|end|endoftext|end_of_text)\|>", re.IGNORECASE)
_NEXT_TURN: Final = re.compile(r"\n\s*(?:question|q|user|human|instruction|example)\b\s*\d*\s*:", re.IGNORECASE)
_SPECIAL: Final = re.compile(r"<\|[^|<>]{0,40}\|>|</?[A-Za-z_][^<>]{0,40}>")
_STRUCK: Final = re.compile(r"~~.*?~~", re.DOTALL)
_BOX: Final = re.compile(r"\\boxed\s*\{")
_FRACTION: Final = re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_COMMAND: Final = re.compile(r"\\(?:text|textbf|textit|mathbf|mathrm|mathit|mbox|emph|boxed)\s*\{([^{}]*)\}")
_MATHS: Final = re.compile(r"\\[()\[\]]|\$\$|\\[,;! ]")
_IN_DOLLARS: Final = re.compile(r"\$([^$\n]*)\$")
_FENCE: Final = re.compile(r"```[a-z]*", re.IGNORECASE)
_MARKDOWN: Final = re.compile(r"[*`|]+|^\s*#+(?=\s)|^\s*>+|(?<!\w)_+|_+(?!\w)", re.MULTILINE)
_KEYED: Final = re.compile(r"[\"'](?:" + "|".join(JSON_KEYS) + r")[\"']\s*:", re.IGNORECASE)
_WRONG: Final = r"(?<!wrong )(?<!incorrect )(?<!false )(?<!no )"
_MARKER: Final = re.compile(
    rf"\b{_WRONG}(?:answer|ans|option|choice|caption|letter|réponse|antwort|respuesta)\b"
    r"\s*(?:(?:is|was|would be|must be|should be|will be|has to be)\b\s*:?|[:=\-]|\.(?=\s*\S)|\n)\s*"
    r"|答案\s*(?:是|:)\s*|^\s*(?:final )?answer\s+(?=\S)",
    re.IGNORECASE,
)


def answer_texts(raw: str) -> tuple[str, ...]:
    """The texts in which the answer is to be read; several when a container or marker is repeated, and they must agree.

    >>> answer_texts("A has whiskers. \\\\boxed{B}"), answer_texts("<think>A?</think>**Answer:** B")
    (('B',), ('B',))
    """
    text = _THINK.sub(" ", _one_script(raw))
    text = _before(_END, text)
    if found := _TAG.findall(text):
        inside = tuple(text for part in found for text in _boxed(part) or (part,))
    elif found := _boxed(text):
        inside = tuple(found)
    elif (value := _json_answer(text)) is not None:
        inside = (value,)
    else:
        inside = (_before(_NEXT_TURN, text),)
    return tuple(_ends(part) for text in inside for part in _after_markers(_plain(text)))


def _ends(text: str) -> str:
    """The beginning and the end of a long text: where answers stand."""
    return text if len(text) <= 2 * ENDS else f"{text[:ENDS]}\n{text[-ENDS:]}"


def _one_script(text: str) -> str:
    """One form of letters, digits, quotes, brackets and blanks; superscripts stay apart from the digits before them."""
    text = _SUPERSCRIPT.sub(lambda m: f"^{m[0]}", text.replace("½", " 1/2 "))
    text = unicodedata.normalize("NFKC", text.translate(_QUOTES)).translate(_QUOTES).translate(_BRACKETS)
    text = "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in text)
    lines = (" ".join(line.split()) for line in text.splitlines())
    text = _NOT_APPLICABLE.sub("not applicable", "\n".join(line for line in lines if line))
    return _POINTER.sub(r"\1 there", text)


def _before(pattern: re.Pattern[str], text: str) -> str:
    """The text before the first match that has something before it."""
    for match in pattern.finditer(text):
        if text[: match.start()].strip():
            return text[: match.start()]
    return text


def _boxed(text: str) -> list[str]:
    """The contents of every outermost `\\boxed{...}`, with nested braces; one that is not closed goes to the end."""
    found: list[str] = []
    at = 0
    while match := _BOX.search(text, at):
        depth, at = 1, match.end()
        while at < len(text) and depth:
            depth += {"{": 1, "}": -1}.get(text[at], 0)
            at += 1
        found.append(text[match.end() : at - (depth == 0)])
    return found


def _json_answer(text: str) -> str | None:
    """The answer that a JSON document states, "" where it states none or several; None where there is no JSON."""
    bare = _FENCE.sub(" ", text).strip()
    if not (bare[:1] in ("{", "[") and bare[-1:] in ("}", "]")):
        if not _KEYED.search(bare) or not 0 <= bare.find("{") < bare.rfind("}"):
            return None
        bare = bare[bare.find("{") : bare.rfind("}") + 1]
    for candidate in (bare, bare.replace("'", '"')):
        try:
            return _stated(json.loads(candidate), top=True)
        except (ValueError, RecursionError):
            continue
    return None


def _stated(value: Any, *, top: bool = False) -> str:
    if isinstance(value, Mapping):
        known = [v for k, v in value.items() if str(k).strip().casefold() in JSON_KEYS]
        return _stated(known[0]) if len(known) == 1 else ""
    if isinstance(value, list):
        return _stated(value[0]) if top and len(value) == 1 else ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)


def _plain(text: str) -> str:
    """Without special tokens, tags, LaTeX commands and Markdown."""
    text = _STRUCK.sub(" ", _SPECIAL.sub(" ", _FENCE.sub("\n", text)))
    text = _FRACTION.sub(r" \1/\2 ", text)
    for _ in range(3):  # commands inside commands
        text = _COMMAND.sub(r" \1 ", text)
    text = _IN_DOLLARS.sub(r" \1 ", _MATHS.sub(" ", text))
    return _MARKDOWN.sub(" ", text).strip()


def _after_markers(text: str) -> tuple[str, ...]:
    """What stands after each "the answer is", or the whole text where nothing does."""
    found = [m for m in _MARKER.finditer(text) if text[m.end() :].strip()]
    if not found:
        return (text,)
    ends = [*[m.start() for m in found[1:]], len(text)]
    parts = [text[m.end() : end].strip() for m, end in zip(found, ends, strict=True)]
    return tuple(part for part in parts if part.strip(" .,:;-")) or (text,)
