"""Where a text names the options of a question, by letter or by their own text.

The letter A (and I) is also a word. It is read as a letter by the same marks as every other one: brackets, punctuation or an
end after it, a word before it that introduces a letter ("option", "is", "choose"), or a word after it that no article can
stand before ("is", "because"). "A dog" is the article where another option is "dog".
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from steercache.benchmarks.commitment import Mention
from steercache.benchmarks.counts import read_count
from steercache.core.errors import UsageError


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz"
_EDGES: Final = " \t\r\n.,:;!?\"'()[]{}<>-–—=~"
_CUES: Final = _words(
    "is was be it's that's option options choice choices answer letter letters choose chose pick picked select say guess "
    "with for think believe so therefore hence thus maybe perhaps probably possibly likely definitely certainly clearly "
    "surely not isn't or and but nor neither either both than of to rather instead actually mean no wait sorry correction "
    "only just out eliminate exclude except between from at whether if would as then assistant"
)
_FOLLOWS: Final = _words(
    "is isn't was seems looks appears because since as would must should has cannot can can't could doesn't does or and but "
    "not for than rather instead then i it"
)
_FOLLOWS_I: Final = frozenset({"is", "isn't", "or", "and", "because", "seems", "looks", "appears", "not"})
_TAKES_NO_ARTICLE: Final = _words(
    "left right above below on under over behind beside between in inside outside near far closer front top bottom up down "
    "yes no true false red blue green black white yellow orange purple brown grey gray pink north south east west none "
    "neither both visible not one two three four five six seven eight nine ten zero"
)
_WINDOW: Final = 40  # characters before a letter that are looked at
_LETTER: Final = re.compile(r"(?<![A-Za-z0-9'’])(?<![A-Za-z]-)([A-Za-z])(?![A-Za-z0-9'’])")
_BRACKETED: Final = re.compile(r"[(\[{<\"']\s*$"), re.compile(r"\s*[)\]}>\"']")
_CLOSED: Final = re.compile(r"\s*(?:$|[.,;:!?()\]}=>|/&\n]|[-–—](?![A-Za-z]))")
_LABEL: Final = re.compile(r"\s*[:)]")
_NEXT_WORD: Final = re.compile(r"\s+([A-Za-z]+(?:'[a-z]+)?)")
_LAST_WORD: Final = re.compile(r"([A-Za-z]+(?:'[a-z]+)?)\s*[\"'(\[]?\s*$")
_JOINT: Final = re.compile(r"[\s.:,)\]\-–—=(]*(?:\bis\s+)?(?:(?:a|an|the)\s+)?", re.IGNORECASE)
_LETTER_THEN_TEXT: Final = re.compile(
    r"[(\[{<\"']*\s*(?P<letter>[a-z])\s*(?P<joint>[\s.:,)\]}>\"'\-–—=(]+|$)(?P<rest>.*)", re.DOTALL
)
_TEXT_THEN_LETTER: Final = re.compile(
    r"(?P<rest>.*?)(?P<joint>\s*[(\[]\s*|\s[-–—]\s|\s*[:,=]\s*)(?P<letter>[a-z])\s*[)\]]?[.!]?\s*$", re.DOTALL
)
_IDIOMS: Final = (
    r"(?!\s+(?:idea|doubt|way|problem|clue|question|more|fewer|less|matter|answer|information|longer|one)\b)"
)
_YES: Final = re.compile(r"(?<!\w)(?:yes|yeah|yep|yup)(?!\w)", re.IGNORECASE)
_NO: Final = re.compile(
    rf"(?:^|(?<=[.!?;,\n])|(?<=not))\s*(?:no|nope|nah)(?=\s*(?:[^\w\s]|$))|^\s*no(?=\s+\w){_IDIOMS}"
    rf"|(?<![\w'])no(?=\s*[.!\"')]*\s*$)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerOptions:
    """The options of a question: `texts` in lower case, `letters` (none for a closed vocabulary), `integers` where all are
    numbers, and whether each text begins with an article (`articled`)."""

    texts: tuple[str, ...]
    letters: str
    integers: tuple[int, ...]
    articled: tuple[bool, ...]

    @classmethod
    def of_choices(cls, choices: Sequence[str]) -> "AnswerOptions":
        """Lettered choices, A first. Raises UsageError for more than there are letters."""
        if len(choices) > len(_ALPHABET):
            raise UsageError(f"a question has {len(choices)} choices", hint=f"at most {len(_ALPHABET)}, one a letter")
        return _options(tuple(choices), lettered=True)

    @classmethod
    def of_words(cls, words: Sequence[str]) -> "AnswerOptions":
        """A closed vocabulary without letters."""
        return _options(tuple(words), lettered=False)


@lru_cache(maxsize=512)
def _options(choices: tuple[str, ...], *, lettered: bool) -> AnswerOptions:
    texts = tuple(" ".join(bare(choice).casefold().split()) for choice in choices)
    integers = tuple(n for text in texts if re.fullmatch(r"-?\d+|[a-z]+", text) and (n := read_count(text)) is not None)
    return AnswerOptions(
        texts=texts,
        letters=_ALPHABET[: len(choices)] if lettered else "",
        integers=integers if len(integers) == len(choices) else (),
        articled=tuple(bool(re.match(r"(?:a|an|the)\s", choice.strip(), re.IGNORECASE)) for choice in choices),
    )


def bare(text: str) -> str:
    """Without punctuation and blanks around."""
    return text.strip(_EDGES)


def exact_option(text: str, options: AnswerOptions) -> str | None:
    """The option (as its place) that the whole text is: a letter, an option's text, or both. "" for a letter with another
    option's text; None where the text is something else."""
    plain = " ".join(bare(text).casefold().split())
    if "?" in text:
        return None
    if len(plain) == 1 and plain in options.letters:
        return str(options.letters.index(plain))
    same = [i for i, own in enumerate(options.texts) if own and own == plain]
    if same:
        return str(same[0]) if len(same) == 1 else ""
    for pattern in (_LETTER_THEN_TEXT, _TEXT_THEN_LETTER):
        match = pattern.match(text.strip().casefold())
        if match is None or match["letter"] not in options.letters or not match["rest"].strip(_EDGES):
            continue
        own, idx = options.letters.index(match["letter"]), _whole_text(match["rest"], options)
        if own in idx:
            return str(own)
        if idx and not (match["joint"].isspace() and _takes_article(match["letter"], idx[0], options)):
            return ""
    return None


def _whole_text(rest: str, options: AnswerOptions) -> list[int]:
    """The options whose text, or number, the rest of an answer is."""
    plain = " ".join(bare(rest).split())
    same = [i for i, own in enumerate(options.texts) if own and own == plain]
    if not same and options.integers and len(plain.split()) <= 2:
        count = read_count(plain)
        same = [i for i, n in enumerate(options.integers) if n == count]
    return same


def mentions_of(text: str, options: AnswerOptions) -> tuple[list[Mention], list[Mention]]:
    """Mentions by letter, and mentions by text; a letter beside another option's text mentions both."""
    texts = list(_texts(text, options))
    letters: list[Mention] = []
    for match in _LETTER.finditer(text):
        idx = options.letters.find(match[1].lower())
        if idx < 0:
            continue
        beside = _beside(text, match, texts)
        if beside is not None and beside.value != str(idx):
            if _only_blank(text, match, beside) and _takes_article(match[1].lower(), int(beside.value), options):
                continue
            if _ends(text, beside) and (beside.start - match.end() < 8):
                letters += [_mention(match, idx), beside]
                continue
        if beside is not None and beside.value == str(idx) and _only_blank(text, match, beside) and match[1] in "aAiI":
            continue  # an article, or the letter: the text says the same
        if _is_letter(text, match, own=beside is not None and beside.value == str(idx)):
            letters.append(_mention(match, idx))
    return letters, texts


def _is_letter(text: str, match: re.Match[str], *, own: bool) -> bool:
    """Whether a lone letter names an option."""
    before, after = text[max(0, match.start() - _WINDOW) : match.start()], match.end()
    if _BRACKETED[0].search(before) and _BRACKETED[1].match(text, after):
        return True
    following, last = _NEXT_WORD.match(text, after), _LAST_WORD.search(before)
    word = following[1].lower() if following else ""
    if match[1] in "iI":
        follows = word in _FOLLOWS_I
    else:
        follows = word in _FOLLOWS or own or bool(following and len(word) == 1 and following[1] not in "aiI")
    opens = last is None or before.rstrip(" ")[-1:] in ".,;:!?\n)]-–—/&|"
    cued = last is not None and (last[1].lower() in _CUES or (len(last[1]) == 1 and last[1] not in "aiI"))
    closed = bool(_CLOSED.match(text, after))
    if match[1].isupper() and (_LABEL.match(text, after) or own):
        return True
    if (opens or cued) and (closed or follows):
        return True
    return cued and match[1].isupper() and match[1] != "I"


def _beside(text: str, match: re.Match[str], texts: Sequence[Mention]) -> Mention | None:
    """The option's text that follows a letter with nothing but punctuation, "is" or an article between."""
    joint = _JOINT.match(text, match.end())
    at = joint.end() if joint else match.end()
    return next((m for m in texts if m.start == at), None)


def _only_blank(text: str, match: re.Match[str], mention: Mention) -> bool:
    return text[match.end() : mention.start].isspace()


def _ends(text: str, mention: Mention) -> bool:
    return bool(re.match(r"\s*(?:$|[.,;!?)\n])", text[mention.end :]))


def _takes_article(letter: str, idx: int, options: AnswerOptions) -> bool:
    """Whether "a" before this option's text can be the article."""
    if letter != "a" or options.integers:
        return False
    return options.articled[idx] or options.texts[idx].split()[0] not in _TAKES_NO_ARTICLE


def _mention(match: re.Match[str], idx: int) -> Mention:
    return Mention(start=match.start(), end=match.end(), value=str(idx))


def _texts(text: str, options: AnswerOptions) -> Iterator[Mention]:
    """Mentions of the options' texts as whole words; one inside a longer option's text gives way to it."""
    found: list[Mention] = []
    for i, own in enumerate(options.texts):
        if own in ("yes", "no"):
            pattern = _YES if own == "yes" else _NO
        elif not own or (len(own) == 1 and own in options.letters):
            continue
        else:
            pattern = _pattern(own)
        found += [Mention(start=_start(m), end=m.end(), value=str(i)) for m in pattern.finditer(text)]
    longest = [m for m in found if not any(_covers(other, m) for other in found)]
    yield from sorted(longest, key=lambda m: m.start)


def _start(match: re.Match[str]) -> int:
    return match.end() - len(match[0].lstrip())


def _covers(outer: Mention, inner: Mention) -> bool:
    longer = outer.end - outer.start > inner.end - inner.start
    return longer and outer.start <= inner.start and inner.end <= outer.end


@lru_cache(maxsize=2048)
def _pattern(own: str) -> re.Pattern[str]:
    """An option's words, with or without articles before each."""
    words = [word for word in own.split() if word not in ("a", "an", "the")] or own.split()
    joined = r"\s+(?:(?:a|an|the)\s+)?".join(re.escape(word) for word in words)
    return re.compile(rf"(?<!\w){joined}(?!\w)", re.IGNORECASE)
