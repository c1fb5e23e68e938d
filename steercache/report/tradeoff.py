"""Gain against damage: which settings are worth their price."""

from collections.abc import Sequence
from dataclasses import dataclass

from steercache.core.drawing.charts import Axes, Point, scatter
from steercache.core.drawing.frame import Key
from steercache.core.shown_text import visible
from steercache.report.document import figure, section, table
from steercache.sweeps.table import SplitTable, TableRow

_COLOURS = 5
_SAID = 10  # arms in the words of the chart


@dataclass(frozen=True, slots=True, kw_only=True)
class Priced:
    """One arm or control: gain in points, and its mean damage in nats."""

    name: str
    gain: float
    low: float | None
    high: float | None
    nats: float
    control: bool = False


def priced(split: SplitTable, *, of: str = "") -> list[Priced]:
    """Every vector and control of a split whose damage was measured; `of` says which sweep, beside the names."""
    found = []
    for row in split.rows:
        name = f"{row.name} ({of})" if of else row.name
        if row.damage is not None and row.damage.n:
            gain = row.comparison.gain
            ends = 100 * gain.low, 100 * gain.high
            found.append(
                Priced(name=name, gain=100 * gain.estimate, low=ends[0], high=ends[1], nats=row.damage.mean_nats)
            )
        found += _controls(row, name)
    return found


def _controls(row: TableRow, name: str) -> list[Priced]:
    return [
        Priced(
            name=f"{one.name}, control of {name}",
            gain=100 * one.gain,
            low=None,
            high=None,
            nats=d.mean_nats,
            control=True,
        )
        for one in row.controls
        if (d := one.damage) is not None and d.n and not one.ranked.failed
    ]


def front_of(points: Sequence[Priced]) -> list[Priced]:
    """The arms that no other one beats: more gain at less damage; by damage. Controls are no candidates.

    >>> made = [Priced(name=n, gain=g, low=g, high=g, nats=d) for n, g, d in (("a", 1, 1), ("b", 3, 2), ("c", 2, 3))]
    >>> [one.name for one in front_of(made)]
    ['a', 'b']
    """
    front: list[Priced] = []
    for one in sorted((p for p in points if not p.control), key=lambda p: (p.nats, -p.gain)):
        if not front or one.gain > front[-1].gain:
            front.append(one)
    return front


def tradeoff_section(split: SplitTable) -> str:
    """The section about one split; empty where no damage was measured."""
    return tradeoff(priced(split), title="Gain against damage", split=split.split)


def tradeoff(points: Sequence[Priced], *, title: str, split: str) -> str:
    """Points, their front, and the table of all of them."""
    arms = [p for p in points if not p.control]
    if not arms:
        return ""
    n_controls = len(points) - len(arms)
    front = front_of(points)
    drawn = [
        Point(
            name=p.name,
            x=p.nats,
            y=p.gain,
            low=p.low,
            high=p.high,
            series=None if p.control else arms.index(p) % _COLOURS,
            words=f"{p.name}: {p.gain:+.1f} points, {p.nats:.3g} nats",
            named=not p.control and len(arms) <= _COLOURS,
        )
        for p in points
    ]
    keys = [Key(name="controls", series=None, kind="dot")] if n_controls else []
    axes = Axes(
        title=f"{split.capitalize()} split",
        x="damage: mean KL on unrelated prompts, nats",
        y="gain, points",
        y_signed=True,
        y_zero=True,
        x_zero=True,
    )
    svg = scatter(drawn, axes, keys=keys, front=[(p.nats, p.gain) for p in front])
    said = "; ".join(f"{visible(p.name)}: {p.gain:+.1f} points at {p.nats:.3g} nats" for p in arms[:_SAID])
    more = f"; {len(arms) - _SAID} more in the table" if len(arms) > _SAID else ""
    words = f"Gain against damage, {split} split. {said}{more}; {n_controls} controls."
    rows = [
        (p.name, f"{p.gain:+.1f}", f"{p.nats:.3g}", "yes" if p in front else "no" if not p.control else "control")
        for p in sorted(points, key=lambda p: (p.control, p.nats))[:200]
    ]
    numbers = table(f"{title}, {split} split", ("arm", "gain", "nats", "on the front"), rows)
    note = (
        "Up is more right answers, right is more change on prompts that have nothing to do with the task. Dashed: the arms that"
        " no other arm beats in both. An arm among the grey controls does no more than a direction without the concept."
    )
    return section(title, f'<p class="note">{note}</p><div class="figures">{figure(svg, words, numbers=numbers)}</div>')
