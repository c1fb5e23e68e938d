"""Times for people."""


def duration_text(seconds: float) -> str:
    """A time for people.

    >>> duration_text(0.0042), duration_text(71.3), duration_text(4000.0)
    ('0.0042 s', '71 s', '67 min')
    """
    if seconds >= 600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
