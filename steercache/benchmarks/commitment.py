"""What a text commits itself to, among the options that it mentions: denials, questions, corrections and conclusions.

A mention is affirmed unless its clause denies it ("not B", "B is wrong", "I cannot tell whether it is B") or asks it ("B?"). A
text that affirms one value is read as that value, however it hedges. Of several, only a correction ("B... no, A") or a
conclusion ("..., so A") decides; otherwise the text is unread. Nothing is read by elimination: "not A" of two options is
unread.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

Stance = Literal["affirmed", "denied", "asked"]

_BREAK: Final = re.compile(
    r"[!?;\n]+|\.+(?!\d)|,(?!\d{3})|\s[-–—]+\s|—|\((?!\s*\w\s*\))|(?<!\(\w)\)"
    r"|\b(?:but|because|since|so|therefore|thus|hence|although|though|while)\b"
    r"|\band\b(?=\s+\S{1,3}\s+(?:is|are|seems|looks)\b)",
    re.IGNORECASE,
)
_DENIES_NEXT: Final = re.compile(
    r"\b(?:not|never|neither|nor|cannot|except|excluding|without|unlike|whether|if|unless|unclear|unsure|uncertain|doubt|hardly)\b"
    r"|n't\b|\b(?:rather|other) than\b|\binstead of\b|\b(?:anything|all|everything) but\b"
    r"|\b(?:exclude|eliminate|discard|reject|rule out|ruled out|ruling out|eliminating|excluding)\b"
    r"|\b(?:wrong|incorrect|false) (?:answer|option|choice|one|letter)\b|\bno\s+(?:(?:a|an|the)\s+)?$",
    re.IGNORECASE,
)
_DENIED_AFTER: Final = re.compile(
    r"[\"')\].*]{0,3}(?:\s*(?:,|\band\b|\bor\b|&)\s*[(\[]?\w[)\]]?)*"
    r"(?:\s*:?\s*(?:(?:(?:can|could|would|should|must|may|might|has to|have to)\s+)?"
    r"(?:is|are|was|were|'s|seems?|looks?|appears?|be|being)\s+(?:\w+ly\s+|also\s+|both\s+|to be\s+)?"
    r"(?:(?:a|an|the)\s+(?:only\s+)?)?(?:not(?! only)\b|incorrect|wrong|false|unlikely|impossible|excluded|eliminated"
    r"|ruled out|rejected|discarded|out\b|no\b|mistake|error\b|distractor|far from)"
    r"|(?:cannot|can not|could not|does not|do not|would not|will not|has not)\b"
    r"|(?:is|are|was|were|ca|could|does|do|would|wo|has)n't\b"
    r"|(?:incorrect|wrong|false)\b))",
    re.IGNORECASE,
)
_ANYTHING_BUT: Final = re.compile(r"\b(anything|all|everything) but\b", re.IGNORECASE)
_CORRECTION: Final = re.compile(
    r"\b(?:wait|actually|sorry|correction|i mean|on second thought|scratch that)\b", re.IGNORECASE
)
_NO: Final = re.compile(r"(?:^|[^\w\s]|\n)\s*no\b(?=\s*(?:[^\w\s]|$|wait|actually|it))", re.IGNORECASE)
_CONCLUSION: Final = re.compile(r"\b(?:so|therefore|thus|hence|in conclusion|in total|altogether)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mention:
    """A value that the text names, and where."""

    start: int
    end: int
    value: str


def committed(text: str, mentions: Sequence[Mention], *, no_corrects: bool = True) -> str | None:
    """The one value that a text affirms; None where there is none, or more than one.

    `no_corrects`: the word "no" between two values takes the first back, which it does not where "no" is a value itself.

    >>> committed("B is wrong, so A", [Mention(start=0, end=1, value="B"), Mention(start=15, end=16, value="A")])
    'A'
    """
    stances = [(mention, stance_of(text, mention, mentions)) for mention in mentions]
    affirmed: Sequence[Mention] = [mention for mention, stance in stances if stance == "affirmed"]
    denied = {mention.value for mention, stance in stances if stance == "denied"}
    last = _last_correction(text, affirmed, no_corrects=no_corrects)
    if last is not None:
        later = [mention for mention in affirmed if mention.start >= last]
        return _only(later)
    if len({mention.value for mention in affirmed}) > 1:
        affirmed = _concluded(text, affirmed)
    found = _only(affirmed)
    return None if found in denied else found


def stance_of(text: str, mention: Mention, mentions: Sequence[Mention]) -> Stance:
    """How the clause of a mention stands to it."""
    start, closed_by = _clause(text, mention)
    before = text[start : mention.start]
    earlier = [other for other in mentions if start <= other.start and other.end <= mention.start]
    if _DENIES_NEXT.search(before) and not _spent(text, before, earlier, start):
        return "denied"
    if _DENIED_AFTER.match(text, mention.end):
        return "denied"
    return "asked" if "?" in closed_by else "affirmed"


def _spent(text: str, before: str, earlier: Sequence[Mention], start: int) -> bool:
    """Whether what denies stands before an earlier mention and that one's own predicate: "B is not right and A is"."""
    denials = list(_DENIES_NEXT.finditer(before))
    after = [o for o in earlier if o.end <= start + denials[-1].start()]
    return bool(after) and bool(_DENIED_AFTER.match(text, after[-1].end))


def _clause(text: str, mention: Mention) -> tuple[int, str]:
    """Start of the clause around a mention, and the punctuation that closes it."""
    start, closed_by = 0, ""
    shielded = _ANYTHING_BUT.sub(lambda m: f"{m[1]}_but", text)
    for match in _BREAK.finditer(shielded if len(shielded) == len(text) else text):
        if match.end() <= mention.start:
            start = match.end()
        elif match.start() >= mention.end:
            closed_by = match[0]
            break
    return start, closed_by


def _last_correction(text: str, affirmed: Sequence[Mention], *, no_corrects: bool) -> int | None:
    """The end of the last correction after a mention that was affirmed; None without one."""
    if not affirmed:
        return None
    found = [m for m in _CORRECTION.finditer(text) if m.start() >= affirmed[0].end]
    if no_corrects:
        found += [m for m in _NO.finditer(text) if m.start() >= affirmed[0].end]
    return max((m.end() for m in found), default=None)


def _concluded(text: str, affirmed: Sequence[Mention]) -> Sequence[Mention]:
    """The mentions after the last "so", if there are any."""
    marks = [m.end() for m in _CONCLUSION.finditer(text)]
    later = [mention for mention in affirmed if marks and mention.start >= marks[-1]]
    return later or affirmed


def _only(mentions: Sequence[Mention]) -> str | None:
    values = {mention.value for mention in mentions}
    return values.pop() if len(values) == 1 else None
