"""Pieces of a user's data, and of other programs' words, for messages: never longer than a reader wants."""

MAX_CHARS = 80  # of one value that a message quotes


def excerpt(value: object, n: int = MAX_CHARS) -> str:
    """A value as a message quotes it: its `repr`, at most `n` characters of it, and how long a text is in all.

    >>> excerpt("three dogs"), excerpt("a" * 200_000, 4)
    ("'three dogs'", "'aaaa' ... (200,000 characters)")
    """
    if isinstance(value, str):
        return repr(value) if len(value) <= n else f"{value[:n]!r} ... ({len(value):,} characters)"
    if isinstance(value, bytes):
        return repr(value) if len(value) <= n else f"{value[:n]!r} ... ({len(value):,} bytes)"
    return shortened(repr(value), n)


def shortened(text: str, n: int) -> str:
    """The beginning of a text, at most `n` characters.

    >>> shortened("question, answer, group", 12)
    'question, an ...'
    """
    return text if len(text) <= n else f"{text[:n]} ..."


def without_middle(text: str, n: int) -> str:
    """At most about `n` characters of a text, its beginning and its end, and how many are left out.

    >>> without_middle("abcdefghijklmnop", 8)
    'abcdef ... (8 characters left out) ... op'
    """
    if len(text) <= n:
        return text
    tail = n // 4
    return f"{text[: n - tail]} ... ({len(text) - n:,} characters left out) ... {text[-tail:]}"


def first_line_of(error: BaseException, n: int = 300) -> str:
    """The first line of what an error says, at most `n` characters of it; its kind where it says nothing."""
    said = str(error).strip().splitlines()
    return shortened(said[0], n) if said else type(error).__name__


def reason_of(error: BaseException, *, lines: int = 12, n: int = 1200) -> str:
    """What another program's error says: its first lines that are not blank, within `n` characters; else its kind.

    Libraries put the heading first ("Validation error for field 'x':") and the reason below it.
    """
    text = f"{type(error).__name__}: {error}" if isinstance(error, KeyError) else str(error)  # a key alone is no reason
    said = [line.rstrip() for line in text.strip().splitlines() if line.strip()]
    shown = "\n  ".join(said[:lines]) + ("\n  ..." if len(said) > lines else "")
    return without_middle(shown, n) or type(error).__name__
