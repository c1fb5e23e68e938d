"""Which questions a cell helped and hurt, counted by hand, and which of them are shown."""

from itertools import product

from steercache.core.trials import Answer
from steercache.sweeps.changes import SHOWN, changes_of

STATES = ("right", "wrong", "failed")


def answer(cell: str, sample: str, state: str, words: str = "w") -> Answer:
    return Answer(
        cell_id=cell,
        sample_id=sample,
        split="test",
        parsed=words,
        correct=None if state == "failed" else state == "right",
        status="failed" if state == "failed" else "ok",
    )


def test_every_pair_of_states_is_counted_once_and_a_bounded_draw_is_shown() -> None:
    pairs = [(a, b, i) for a, b in product(STATES, STATES) for i in range(9)]
    answers = {}
    for n, (before, after, i) in enumerate(pairs):
        answers["base", str(n)] = answer("base", str(n), before)
        answers["cell", str(n)] = answer("cell", str(n), after, "other" if i == 8 else "w")
    samples = [*(str(n) for n in range(len(pairs))), "never asked"]
    found = changes_of(answers, samples, before="base", after="cell")
    assert dict(found.counts) == {"helped": 9, "hurt": 9, "unchanged": 18, "failed": 5 * 9}
    shown = [one.change for one in found.shown]
    assert {change: shown.count(change) for change in SHOWN} == dict(SHOWN)
    assert found == changes_of(answers, samples[::-1], before="base", after="cell")  # no order of asking picks them
    first = [one for one in found.shown if one.change == "unchanged"][:2]
    assert {one.after.parsed for one in first} == {"other"}
    for one in found.shown:
        if one.change in ("helped", "hurt"):
            assert (one.before.correct, one.after.correct) == (
                (False, True) if one.change == "helped" else (True, False)
            )
