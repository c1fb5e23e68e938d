"""What a rank among random directions says, in words."""

ENOUGH = 19  # random directions: with fewer the least possible p is above .05


def beside_random(p_best: float, n: int) -> str:
    """How the best of a curve stands to the random directions' bests; p is (1 + those at least as high) / (1 + all).

    >>> beside_random(1 / 21, 20)
    'beyond all 20 random directions at their best (p = 0.048)'
    >>> beside_random(2 / 21, 20)
    '1 of 20 random directions does as well at its best (p = 0.095)'
    """
    as_well = round(p_best * (n + 1)) - 1
    p = f"(p = {p_best:.3f})"
    if as_well:
        whose = "does as well at its best" if as_well == 1 else "do as well at their best"
        return f"{as_well} of {n} random directions {whose} {p}"
    few = f", too few to tell: {ENOUGH} would be enough" if n < ENOUGH else ""
    which = f"all {n} random directions at their best" if n > 1 else "its one random direction at its best"
    return f"beyond {which} {p}{few}"


def curve_verdict(moved: str, *, raised: bool, p_best: float | None, n: int) -> str:
    """What a curve shows at its highest point (`moved` says how far), beside `n` random directions at theirs (None: none).

    >>> curve_verdict("0.1 -> 0.1 at alpha 2, its best", raised=False, p_best=1.0, n=20)
    '0.1 -> 0.1 at alpha 2, its best; no strength tried raises it'
    """
    if not raised:
        return f"{moved}; no strength tried raises it"
    return moved if p_best is None else f"{moved}; {beside_random(p_best, n)}"
