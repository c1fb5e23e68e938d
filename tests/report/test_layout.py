"""The page as a browser lays it out: wide and narrow, dark, on paper, by keyboard, read aloud, with hostile names in it."""

import base64
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from steercache.report.demo_page import PageStep, demo_page
from steercache.report.page import save_page, sweep_body
from steercache.report.side_by_side import SweepPart, side_by_side
from steercache.sweeps.table import Failure, SweepTable
from tests.report.browser import Tab, browser_tab
from tests.report.contrast import contrast, luminance
from tests.report.made import N_FIGURES, made_findings
from tests.report.test_page import ODD, report, row

pytest.importorskip("altair", reason="the pictures of a page need the extra `plots`")
pytestmark = pytest.mark.slow

LONG = "counting vector of the residual stream behind the language model's eleventh block"
HOSTILE = (
    '</text></svg><script>window.hurt=1</script><img src=x onerror="window.hurt=1">',
    "</style></title><svg onload=window.hurt=1><a href=javascript:window.hurt=1>x</a>",
    "\x1b[31mred\x1b[0m \u202ednuora\u202c \u2066in\u2069 \u200bzero \x00\x07 \ud800",
)
PAPER = 702  # CSS pixels of A4 between its margins


def made(*names: str) -> SweepTable:
    one = report(*(row(name, 20 - 6 * i, controls=(-0.02, 0.01, 0.05)) for i, name in enumerate(names)))
    return replace(one, splits=(replace(one.splits[0], split="search"), *one.splits))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with browser_tab(tmp_path_factory.mktemp("browser")) as tab:
        yield tab


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "r.html"
    return save_page(
        made(LONG, "entity", ODD), path, made_findings(LONG, "entity", ODD), commands={"This page": [LONG]}
    )


@pytest.fixture
def tab(browser: Tab, page: Path) -> Tab:
    browser.look(1400)
    browser.open(page)
    return browser


@pytest.mark.parametrize("width", [390, 1000, 1400])
def test_nothing_is_cut_at_any_width(tab: Tab, width: int) -> None:
    tab.look(width)
    assert tab.ask("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    tables = tab.ask(
        """[...document.querySelectorAll('section > .table')].map(t => { t.scrollLeft = 1e6;
        const end = t.querySelector('thead th:last-child').getBoundingClientRect(), box = t.getBoundingClientRect();
        return {name: t.querySelector('thead th:last-child').textContent, past: end.right - box.right,
          out: box.right - innerWidth, scrolls: t.scrollWidth > t.clientWidth,
          role: t.getAttribute('role'), tab: t.tabIndex} })"""
    )
    assert [one["name"] for one in tables] == ["KL", "KL", "texts", "texts", "model"]  # splits, features, origins
    for one in tables:
        assert one["past"] <= 1 >= one["out"]
        if one["name"] == "KL":
            assert one["scrolls"] == (width == 390)  # a phone scrolls the table alone, nobody else scrolls
        assert (one["role"], one["tab"]) == ("region", 0)
    outside = tab.ask(
        """[...document.querySelectorAll('main *:not(.unseen)')].filter(e => !e.closest('.table, .chart, svg') &&
        e.getBoundingClientRect().right > document.documentElement.clientWidth).map(e => e.outerHTML.slice(0, 80))"""
    )
    assert outside == []
    sizes = tab.ask(
        """[...document.querySelectorAll('svg text')].filter(t => t.getBoundingClientRect().width > 0).map(
        t => parseFloat(getComputedStyle(t).fontSize) * Math.hypot(t.getScreenCTM().a, t.getScreenCTM().b))"""
    )
    assert len(sizes) > 30
    assert min(sizes) >= 11 - 0.01


def test_a_phone_sees_the_charts_of_gains_without_scrolling(tab: Tab) -> None:
    tab.look(390)
    shown = "[...document.querySelectorAll('.%s')].map(e => [e.clientWidth > 0, e.scrollWidth <= e.clientWidth])"
    assert tab.ask(shown % "narrow") == [[True, True]] * 2
    assert [seen for seen, _ in tab.ask(shown % "wide")] == [False] * 2
    tab.look(1000)
    assert [seen for seen, _ in tab.ask(shown % "narrow")] == [False] * 2
    assert tab.ask(shown % "wide") == [[True, True]] * 2
    tab.look(390)
    own = "[...document.querySelectorAll('.chart:has(svg[color])')].map(e => e.scrollWidth <= e.clientWidth + 1)"
    assert tab.ask(own) == [True] * (N_FIGURES - 6)  # the pictures of cards are no charts


COLOURS = """(() => { const of = (e, what) => getComputedStyle(e)[what], one = s => document.querySelector(s);
  return {page: of(document.body, 'backgroundColor'), ink: of(document.body, 'color'), note: of(one('.note'), 'color'),
    head: of(one('thead th'), 'color'), cell: of(one('td'), 'color'), summary: of(one('summary'), 'color'),
    link: of(one('.skip'), 'color'), panel: of(one('.verdicts li'), 'backgroundColor'),
    label: of(one('.wide svg text'), 'fill'), interval: of(one('.wide svg [stroke="#b3441e"]'), 'stroke'),
    map: of(one('.map svg'), 'filter'), drawn: of(one('svg[color] text'), 'fill'),
    band: of(one('svg [fill^="var(--accent"]'), 'fill'), card: of(one('.card'), 'backgroundColor'),
    said: of(one('.card dt'), 'color'), judged: of(one('.card .judged'), 'color')} })()"""
TEXTS = ("ink", "note", "head", "cell", "summary", "link", "label", "drawn")


def test_a_reader_who_wants_dark_pages_gets_one_that_can_be_read(tab: Tab) -> None:
    light = tab.ask(COLOURS)
    tab.look(1400, dark=True)
    dark = tab.ask(COLOURS)
    assert all(dark[name] != light[name] for name in light), (light, dark)
    assert luminance(dark["page"]) < 0.05 < 0.9 < luminance(light["page"])
    for colours in (light, dark):
        for name in TEXTS:
            assert contrast(colours[name], colours["page"]) >= 4.5, (name, colours)
        assert contrast(colours["ink"], colours["panel"]) >= 4.5
        assert contrast(colours["said"], colours["card"]) >= 4.5
        assert contrast(colours["judged"], colours["card"]) >= 4.5
        assert contrast(colours["interval"], colours["page"]) >= 3
        assert contrast(colours["band"], colours["page"]) >= 3
    tab.look(PAPER, dark=True, media="print")
    assert luminance(tab.ask(COLOURS)["page"]) > 0.9  # paper stays white


def test_paper_has_everything(tab: Tab) -> None:
    tab.look(PAPER, media="print")
    clipped = tab.ask(
        """[...document.querySelectorAll('main *:not(.unseen)')].filter(e => !e.closest('svg') && getComputedStyle(e).overflowX
        != 'visible' && (e.scrollWidth > e.clientWidth + 1)).map(e => e.outerHTML.slice(0, 80))"""
    )
    assert clipped == []
    assert set(tab.ask("[...document.querySelectorAll('.table, .chart')].map(e => getComputedStyle(e).overflowX)")) == {
        "visible"
    }
    edges = tab.ask(
        """[...document.querySelectorAll('main th, main td, main svg, main pre')].filter(e => !e.closest('.narrow')).map(
        e => { const box = e.getBoundingClientRect(); return [box.right, box.height] })"""
    )
    assert max(right for right, _ in edges) <= PAPER + 1
    assert min(height for _, height in edges) > 5  # what is folded on the screen is open
    printed = tab.ask("document.querySelector('main').innerText")
    assert "3: mid +0.010, best +0.050" in printed  # the controls
    assert '"kind": "eval"' in printed  # the manifest
    assert "+11.7 points, 60 questions, chosen" in printed  # numbers of the map
    n_sections = tab.ask("document.querySelectorAll('section').length")
    tab.call("Emulation.setEmulatedMedia", media="", features=[])
    pdf = tab.call("Page.printToPDF", preferCSSPageSize=True, transferMode="ReturnAsStream")
    data, end = "", False
    while not end:
        part = tab.call("IO.read", handle=pdf["stream"], size=1 << 18)
        data += base64.b64decode(part["data"]).decode("latin-1") if part["base64Encoded"] else part["data"]
        end = part["eof"]
    assert data.count("/Type /Page\n") >= n_sections


def press(tab: Tab, key: str, code: int) -> None:
    for kind in ("keyDown", "keyUp"):
        text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
        tab.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)


def until(tab: Tab, script: str, seconds: float = 5) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := tab.ask(script)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


def test_a_keyboard_reaches_the_results_and_scrolls_the_table(tab: Tab) -> None:
    tab.look(390)
    focus = """(() => { const e = document.activeElement, s = getComputedStyle(e);
      return [e.className || e.id, e.getBoundingClientRect().left >= 0, s.outlineStyle, parseFloat(s.outlineWidth)] })()"""
    press(tab, "Tab", 9)
    assert tab.ask(focus) == ["skip", True, "solid", 3]
    press(tab, "Enter", 13)
    assert until(tab, "document.activeElement.id == 'main'")
    seen: list[str] = []
    while "table" not in seen and len(seen) < 8:
        press(tab, "Tab", 9)
        name, visible, style, width = tab.ask(focus)
        assert (visible, style, width) == (True, "solid", 3)
        seen.append(name)
    assert seen[-1] == "table"
    press(tab, "ArrowRight", 39)
    assert until(tab, "document.activeElement.scrollLeft > 0")


def test_a_screen_reader_hears_headings_tables_and_what_the_charts_show(tab: Tab) -> None:
    levels = tab.ask("[...document.querySelectorAll('h1,h2,h3,h4')].map(h => +h.tagName[1])")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert tab.ask("[...document.querySelectorAll('th')].every(h => ['col', 'row'].includes(h.scope))")
    nodes = [n for n in tab.call("Accessibility.getFullAXTree")["nodes"] if not n.get("ignored")]
    named = [(n["role"]["value"], n.get("name", {}).get("value", "")) for n in nodes]
    pictures = [name for role, name in named if role in ("image", "img", "graphics-document")]
    assert len(pictures) == 2 + 1 + 3 + N_FIGURES
    assert any(f"{LONG}: +33.3, +22.5 to +46.2, 3 controls from -2.0 to +5.0" in name for name in pictures)
    assert any("chosen: layer 3, alpha 2" in name for name in pictures)
    assert ("rowheader", "entity (mean shift)") in named
    assert ("columnheader", "95 % interval") in named
    assert ("region", "Test split: every arm") in named
    assert ("radio", "helped (2)") in named
    assert any("beside it its patches" in name for name in pictures)
    assert any(name.startswith("Gain against damage") or "Gain of" in name for name in pictures)


def test_a_filter_shows_the_questions_that_were_helped_by_keyboard_alone_and_paper_shows_all(tab: Tab) -> None:
    tab.look(390)
    seen = "[...document.querySelectorAll('.card')].filter(e => e.getBoundingClientRect().height > 0).map(e => e.classList[1])"
    every = tab.ask(seen)
    assert {kind: every.count(kind) for kind in ("helped", "hurt", "unchanged")} == {
        "helped": 2,
        "hurt": 2,
        "unchanged": 2,
    }
    tab.ask("document.querySelector('.filter input').focus()")
    for kind in ("helped", "hurt", "unchanged"):
        press(tab, "ArrowRight", 39)
        assert until(tab, f"document.querySelector('.filter input[value={kind}]').checked")
        assert {*tab.ask(seen)} == {kind}
        assert tab.ask("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    tab.look(PAPER, media="print")
    assert tab.ask(seen) == every


def test_hostile_names_make_no_elements_run_nothing_and_hide_nothing(browser: Tab, tmp_path: Path) -> None:
    tags = "[...new Set([...document.querySelectorAll('*')].map(e => e.tagName))].sort()"
    browser.look(1000)
    plain = made_findings("one", "two", "three")
    browser.open(save_page(made("one", "two", "three"), tmp_path / "harmless.html", plain, commands={"a": ["b"]}))
    harmless = browser.ask(tags)
    everything = " ".join(HOSTILE)
    table = replace(
        made(*HOSTILE),
        name=everything,
        model=everything,
        benchmark=everything,
        status=everything,
        manifest={everything: everything},
        failures=(Failure(split="test", place="row 7", error=everything),),
    )
    target: Any = everything
    cells = [replace(one, cell=replace(one.cell, target=target)) for one in table.cells]
    bad = made_findings(*HOSTILE, words=everything)
    path = tmp_path / "hostile.html"
    browser.open(save_page(replace(table, cells=tuple(cells)), path, bad, commands={everything: [everything]}))
    assert browser.ask(tags) == harmless
    assert browser.ask("typeof window.hurt") == "undefined"
    handlers = "[...document.querySelectorAll('*')].flatMap(e => e.getAttributeNames()).filter(n => n.startsWith('on'))"
    assert browser.ask(handlers) == []
    assert browser.ask("[...document.querySelectorAll('a')].map(a => a.getAttribute('href'))") == ["#main"]
    whole = browser.ask("document.title + document.documentElement.outerHTML")
    assert not set(whole) & set("\x00\x07\x1b\u200b\u202c\u202e\u2066\u2069\ufffd\ud800")
    shown = browser.ask("document.body.innerText")
    for sign in ("[U+001B][31mred", "[U+202E]dnuora[U+202C]", "[U+D800]", "<script>window.hurt=1</script>"):
        assert sign in shown
    fetched = [e["params"]["request"]["url"] for e in browser.events if e.get("method") == "Network.requestWillBeSent"]
    assert {url.split(":")[0] for url in fetched} <= {"file", "data"}
    assert sum(url.startswith("file:") for url in fetched) == 1  # the page itself
    assert [e for e in browser.events if e.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown")] == []
    assert browser.ask("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_several_sweeps_fit_every_width_and_filter_their_own_questions(browser: Tab, tmp_path: Path) -> None:
    bodies = [sweep_body(made(LONG, "b", ODD), made_findings(LONG, "b", ODD)) for _ in range(2)]
    parts = [SweepPart(name=ODD, table=made(LONG, "b", ODD), body=body) for body in bodies]
    path = tmp_path / "several.html"
    path.write_text(side_by_side(parts, commands={"This page": [LONG]}), encoding="utf-8")
    browser.look(390)
    browser.open(path)
    for width in (390, 1000, 1400):
        browser.look(width)
        assert browser.ask("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), width
    ids = browser.ask("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len({*ids})
    levels = browser.ask("[...document.querySelectorAll('h1,h2,h3,h4,h5')].map(h => +h.tagName[1])")
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    browser.ask("document.querySelector('#sweep2 input[value=hurt]').click()")
    seen = "[...document.querySelectorAll('#sweep%d .card')].filter(e => e.getBoundingClientRect().height > 0).length"
    assert [browser.ask(seen % n) for n in (1, 2)] == [6, 2]


def test_a_demos_page_holds_the_page_of_a_sweep_whole(browser: Tab, page: Path, tmp_path: Path) -> None:
    steps = [
        PageStep(title=t, commands=(ODD,), outputs=("\x1b[31mout\x1b[0m",), meaning="m", seconds=1.0, page=page)
        for t in ("first", "second")
    ]
    path = tmp_path / "demo.html"
    path.write_text(demo_page(steps), encoding="utf-8")
    browser.open(path)
    for width, media in ((390, "screen"), (1000, "screen"), (1400, "screen"), (PAPER, "print")):
        browser.look(width, media=media)
        assert browser.ask("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), width
    one = page.read_text(encoding="utf-8").count("<table>")
    assert browser.ask("document.querySelectorAll('.inside table').length") == 2 * one
    assert browser.ask("document.body.innerText").count("3: mid +0.010, best +0.050") == 2 * 2 * 3
    ids = browser.ask("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    assert len({*browser.ask("[...document.querySelectorAll('.filter input')].map(e => e.name)")}) == 2
    levels = browser.ask("[...document.querySelectorAll('h1,h2,h3,h4,h5')].map(h => +h.tagName[1])")
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert set(browser.ask("[...document.querySelectorAll('[fill^=url]')].map(e => e.getAttribute('fill'))")) <= {
        f"url(#{one})" for one in ids
    }
    assert browser.ask("document.querySelectorAll('iframe').length") == 0
    assert "\x1b" not in path.read_text(encoding="utf-8")
