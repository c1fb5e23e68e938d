"""Small pictures drawn by hand: well-formed for any numbers and names, everything inside, points where their numbers say."""

import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from steercache.core.drawing.bars import bar_chart, layer_strip
from steercache.core.drawing.charts import Axes, Point, Series, line_chart, scatter
from steercache.core.drawing.frame import SIZE, ticks
from steercache.core.drawing.heat import heat_map
from steercache.core.drawing.intervals import Estimate, interval_chart

SVG = "{http://www.w3.org/2000/svg}"
NUMBERS = st.floats(-1e6, 1e6) | st.just(math.nan)
NAMES = st.text(st.characters(), max_size=60)


def read(svg: str) -> ElementTree.Element:
    """The picture as XML; no number in it is NaN, no letter too small, and nothing runs or is fetched."""
    root = ElementTree.fromstring(svg)
    for element in root.iter():
        assert element.tag.removeprefix(SVG) in {
            "svg",
            "g",
            "text",
            "title",
            "line",
            "polyline",
            "polygon",
            "rect",
            "circle",
        }
        assert not any(name.startswith("on") or "href" in name for name in element.attrib)
        for name, value in element.attrib.items():
            if name in ("x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "r", "width", "height", "points"):
                assert all(math.isfinite(float(part)) for part in re.split(r"[ ,]", value) if part), (name, value)
    assert all(float(t.attrib["font-size"]) >= SIZE for t in root.iter(f"{SVG}text"))
    return root


def inside(root: ElementTree.Element) -> bool:
    wide, tall = float(root.attrib["width"]), float(root.attrib["height"])
    marks = [(float(e.attrib["cx"]), float(e.attrib["cy"])) for e in root.iter(f"{SVG}circle")]
    lines = [tuple(map(float, p.split(","))) for e in root.iter(f"{SVG}polyline") for p in e.attrib["points"].split()]
    return all(-1 <= x <= wide + 1 and -1 <= y <= tall + 1 for x, y in [*marks, *lines])


@given(st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), max_size=8), NAMES)
def test_curves_and_points_of_any_numbers_and_names_are_well_formed_and_inside(
    rows: list[tuple[float, float, float]], name: str
) -> None:
    x = [float(i) for i in range(len(rows))]
    y, low, high = ([row[k] for row in rows] for k in range(3))
    axes = Axes(title=name, x=name, y=name, y_zero=True, ticks=x or None)
    assert inside(
        read(line_chart([Series(name=name, x=x, y=y, low=low, high=high), Series(name="b", x=x, y=low)], axes))
    )
    points = [Point(name=name, x=a, y=b, low=b, high=c, words=name, named=True) for a, b, c in rows]
    assert inside(read(scatter(points, axes, diagonal=True)))
    known = [Estimate(name=name, value=a, low=a, high=a) for a, *_ in rows if math.isfinite(a)]
    assert inside(read(interval_chart(known, title=name, x=name)))


def test_a_curve_has_a_gap_where_a_number_is_missing_and_rises_where_numbers_rise() -> None:
    root = read(line_chart([Series(name="a", x=range(5), y=[1, 2, math.nan, 3, 4])], Axes(title="t", x="x", y="y")))
    parts = [[tuple(map(float, p.split(","))) for p in e.attrib["points"].split()] for e in root.iter(f"{SVG}polyline")]
    assert sorted(len(part) for part in parts) == [2, 2]
    heights = {x: y for part in parts for x, y in part}
    drawn = [heights[x] for x in sorted(heights)]
    assert drawn == sorted(drawn, reverse=True)  # up is smaller in an SVG
    assert len(list(root.iter(f"{SVG}circle"))) == 4


@given(st.integers(1, 9), st.integers(1, 9), st.data())
def test_a_map_has_a_box_for_every_cell_and_colours_only_those_that_were_run(
    n: int, m: int, data: st.DataObject
) -> None:
    grid = data.draw(st.lists(st.lists(NUMBERS, min_size=m, max_size=m), min_size=n, max_size=n))
    names = {"rows": [str(i) for i in range(n)], "columns": [str(j) for j in range(m)]}
    root = read(heat_map(grid, title="t", x_title="x", y_title="y", chosen=(n - 1, m - 1), **names))
    fills = [e.attrib["fill"] for e in root.iter(f"{SVG}rect")]
    n_known = sum(math.isfinite(v) for line in grid for v in line)
    assert sum(fill.startswith("#") for fill in fills) == n_known
    assert fills.count("none") == n * m - n_known + 2  # and the frame
    assert float(root.attrib["width"]) <= 340


@given(
    st.dictionaries(NAMES, st.floats(-1, 2), max_size=5),
    st.dictionaries(NAMES, st.lists(st.integers(0, 90)), max_size=4),
)
@example({"\ufffe": 1.0}, {"\U0001ffff\ufdd0": [0]})
def test_bars_and_layers_are_well_formed(shares: dict[str, float], kept: dict[str, list[int]]) -> None:
    bars = [float(e.attrib["width"]) for e in read(bar_chart(shares, title="t")).iter(f"{SVG}rect")]
    assert all(0 <= one <= max(bars) for one in bars)
    squares = list(read(layer_strip(kept, title="t")).iter(f"{SVG}rect"))
    highest = max((layer for layers in kept.values() for layer in layers), default=0)
    assert len(squares) == len(kept) * (highest + 1)
    assert sum("var" in e.attrib["fill"] for e in squares) == sum(len({*layers}) for layers in kept.values())


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3, 3), (0.001, 0.0017), (0, 123456), (5, 5)])
def test_ticks_are_few_even_and_inside(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 1 <= len(found) <= 7
    assert all(low <= v <= high for v in found)
    steps = [b - a for a, b in pairwise(found)]
    assert steps == pytest.approx([steps[0]] * len(steps)) if steps else True
