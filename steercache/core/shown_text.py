"""Text of users, data sets and other programs as a page shows it: never markup, and nothing in it is invisible."""

import html
import unicodedata
from typing import Final

_JOINERS: Final = "\u200c\u200d"  # parts of words in several scripts, and of emoji
_LAYOUT: Final = "\n\t"


def visible(text: str) -> str:
    """A text in which characters that cannot be seen are named: control characters (those that begin the colours of a terminal,
    too), those that turn the direction of writing, spaces without width, tags, halves of surrogate pairs, and code points that
    are no characters (U+FFFE, U+FFFF and their like, which XML refuses).

    >>> visible("cat\\u202egnp.exe"), visible("\\x1b[31mred"), visible("two\\r\\nlines")
    ('cat[U+202E]gnp.exe', '[U+001B][31mred', 'two\\nlines')
    """
    text = text.replace("\r\n", "\n")
    if text.isascii() and text.isprintable():
        return text
    return "".join(f"[U+{ord(c):04X}]" if _hides(c) else c for c in text)


def escaped(text: str) -> str:
    """A text as the body of an element or the value of an attribute.

    >>> escaped('<b title="x">\\u2066')
    '&lt;b title=&quot;x&quot;&gt;[U+2066]'
    """
    return html.escape(visible(text))


def _hides(character: str) -> bool:
    if character in _LAYOUT or character in _JOINERS:
        return False
    code = ord(character)
    if code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF:  # noncharacters of Unicode, chapter 23.7
        return True
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")
