"""Numbers of things in words."""


def counted(n: int, thing: str) -> str:
    """A number with its noun, in the plural where it is not 1.

    >>> counted(1, "run"), counted(1200, "run"), counted(0, "vector")
    ('1 run', '1,200 runs', '0 vectors')
    """
    return f"{n:,} {thing}{'' if n == 1 else 's'}"
