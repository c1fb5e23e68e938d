"""Data sets, models, vectors and sweeps named by an attacker: on every page they are text, and nothing of it is invisible."""

import json
from pathlib import Path

import pytest

from steercache.explorer.rendering import without_paths
from tests.explorer.small_site import BIDI, EVIL, SVG, Site, Small
from tests.queries.small_features import SAE_ID

HIDDEN = "\u202e\u2066\u200b\x1b\x00"


def pages(small: Small) -> list[str]:
    vectors = ["/vectors", "/vectors?controls=1", f"/vectors/{small.east}"]
    runs = [f"/runs/{small.hostile}", *(f"/runs/{small.hostile}/samples/{n}" for n in (0, 1))]
    return [
        "/",
        *runs,
        *vectors,
        "/saes",
        f"/saes/{SAE_ID}/{small.text}",
        "/results",
        f"/results/{small.sweep}",
        "/sql",
    ]


def test_injected_markup_is_text_on_every_page(site: Site, small: Small) -> None:
    for path in pages(small):
        page = site.page(path)
        assert page.dangers() == [], path
        assert not set(page.source) & set(HIDDEN), path
        assert "1337" not in page.text.replace("${1337}", ""), path  # no template of theirs runs


def test_what_was_injected_is_shown(site: Site, small: Small) -> None:
    assert EVIL in site.page("/").text
    shown = site.page(f"/runs/{small.hostile}/samples/0")
    assert "<img src=x onerror=window.hurt=1>" in shown.text
    assert "user[U+202E]gnp.exe[U+2066] zero[U+200B]width [U+001B][31mred[U+0000]" in shown.text
    assert "{{ 7 * 191 }}" in shown.text
    assert SVG in site.page("/vectors").text


def test_a_vector_of_that_name_is_chosen_and_drawn(site: Site, small: Small) -> None:
    page = site.page("/vectors")
    (link,) = {
        a["href"] for a in page.all("a", href="/vectors/") if a["href"].rpartition("/")[2] not in (small.east,)
    } - {a["href"] for a in site.page("/vectors", search="north").all("a", href="/vectors/")}
    vector = link.rpartition("/")[2]
    assert site.page(f"/vectors/{vector}").dangers() == []
    assert site.page(f"/runs/{small.hostile}/samples/0", of=f"vector:{vector}").dangers() == []


def test_values_that_come_back_in_a_page_are_escaped(site: Site, small: Small) -> None:
    for name in ("search", "concept", "split"):
        page = site.page(f"/runs/{small.text}", **{name: EVIL[:190]})
        assert page.dangers() == []
    for path in ("/sql", "/vectors"):
        assert site.page(path, name=SVG, search=SVG).dangers() == []
    error = site.at(f"/runs/{small.text}/samples/0", of=EVIL)
    assert error.status_code == 400
    assert "<script>window" not in error.text


def test_data_of_the_script_names_what_is_hidden_and_cannot_end_its_element(site: Site, small: Small) -> None:
    source = site.page(f"/runs/{small.hostile}/samples/0").source
    data = source.split('id="data">')[1].split("</script>")[0]
    texts = " ".join(token["text"] for token in json.loads(data)["tokens"])
    assert "[U+202E]" in texts
    assert "</script>" in texts
    assert "<" not in data
    assert not set(BIDI) & set(HIDDEN) & set(data)


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("/home/me/runs/x/run.json is gone", ".../run.json is gone"),
        ("open('/srv/data/a.bin')", "open('.../a.bin')"),
        ("no site 'resid_post'; it has layers 0 to 2", "no site 'resid_post'; it has layers 0 to 2"),
        ("text/plain and 3/4", "text/plain and 3/4"),
    ],
)
def test_paths_are_cut_out_of_messages(said: str, shown: str) -> None:
    assert without_paths(said, Path("/home/me")) == shown
