"""What the pages show is what the cache holds: numbers against formulas of the small cache's rows, and against SQL."""

import json
from pathlib import Path

import numpy as np
import pytest

from steercache.api.cache import open_cache_at
from steercache.api.sample_pictures import patches_of
from tests.explorer.small_site import TOKEN, Site, Small, tokens_of
from tests.queries.small_cache import add_run, value_of
from tests.queries.small_features import SAE_ID, TEXT_FEATURES

LEFT_OUT = {0, 6, 64, 67, 69, 72}  # first positions of the text run's samples
ROWS = [*range(11), *range(64, 74)]


def test_the_first_page_lists_the_runs_with_their_sizes(site: Site, small: Small) -> None:
    page = site.page("/")
    assert [a["href"] for a in page.all("a", href="/runs/")] == [
        f"/{TOKEN}/runs/{run}" for run in (small.hostile, small.pictures, small.text)
    ]
    assert "text, float32 resid_post x 3 6 22 21" in page.text  # samples, tokens, rows


def test_an_empty_cache_has_pages_that_say_so(tmp_path: Path) -> None:
    open_cache_at(tmp_path / "empty", create=True)
    with Site(tmp_path / "empty") as site:
        for path, said in (
            ("/", "Nothing was traced"),
            ("/vectors", "No vector"),
            ("/saes", "No run"),
            ("/results", "No sweep"),
        ):
            assert said in site.page(path).text, path


def test_a_run_shows_norms_labels_and_samples(site: Site, small: Small) -> None:
    page = site.page(f"/runs/{small.text}")
    rows = np.array([row for row in ROWS if row not in LEFT_OUT and row != 6])
    medians = [np.median(np.linalg.norm(value_of(rows, layer), axis=1)) for layer in (0, 1, 2)]
    for layer, median in enumerate(medians):
        assert f"layer {layer}: text tokens ({len(rows)} rows) {median:.4g}" in page.source
    assert [a["href"] for a in page.all("a", href="concept=")] == [
        "?concept=mood#samples",
        "?concept=spatial#samples",
        "?concept=counting#samples",
    ]
    assert "6 samples, 1 to 6" in page.text


@pytest.mark.parametrize(
    ("asked", "numbers"),
    [
        ({"concept": "spatial"}, [0, 1]),
        ({"split": "test"}, [1]),
        ({"dataset": "pairs"}, [4, 5]),
        ({"search": "THE"}, [0, 1]),
        ({"search": "the", "split": "train"}, [0]),
        ({"search": "%"}, []),
        ({"search": "' OR 1=1 --"}, []),
        ({"offset": "4"}, [4, 5]),
        ({"offset": "400"}, []),
    ],
)
def test_samples_are_filtered_and_searched(site: Site, small: Small, asked: dict[str, str], numbers: list[int]) -> None:
    page = site.page(f"/runs/{small.text}", **asked)
    links = [a["href"] for a in page.all("a", class_="plain")]
    assert links == [f"/{TOKEN}/runs/{small.text}/samples/{n}" for n in numbers]


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("measure", ["projection", "cosine", "norm"])
def test_tokens_have_the_projection_of_their_rows(site: Site, small: Small, layer: int, measure: str) -> None:
    asked = {"of": f"vector:{small.east}", "layer": str(layer), "measure": measure}
    found = site.at(f"/runs/{small.text}/samples/0/values", **asked).json()
    acts = value_of(np.arange(6), layer).astype(np.float64)
    norms = np.linalg.norm(acts, axis=1)
    np.testing.assert_allclose(found["values"], acts[:, 0], rtol=1e-4, atol=1e-4)  # east is the first axis
    np.testing.assert_allclose(found["norms"], norms, rtol=1e-4)
    np.testing.assert_allclose(found["cosines"], acts[:, 0] / norms, rtol=1e-4, atol=1e-4)
    shown = {"projection": acts[:, 0], "cosine": acts[:, 0] / norms, "norm": norms}[measure]
    usual = shown[1:]  # position 0 does not count for the scale
    if measure == "norm":
        assert found["scales"]["text"]["rises"]
        assert found["levels"][0] == 0
        assert found["levels"][5] == 10
    else:
        assert found["scales"]["text"]["centre"] == pytest.approx(usual.mean(), rel=1e-5)
        reach = np.quantile(np.abs(usual - usual.mean()), 0.98)
        expected = np.clip(np.rint(10 * (shown - usual.mean()) / reach), -10, 10)
        np.testing.assert_allclose(found["levels"], expected, atol=1)
        assert np.ptp(found["levels"]) >= 10
    page = site.page(f"/runs/{small.text}/samples/0", **asked)
    assert tokens_of(page) == {i: f"v{level}" for i, level in enumerate(found["levels"])}  # without the script, too


def test_a_centre_of_zero_is_white_at_zero(site: Site, small: Small) -> None:
    asked = {"of": f"vector:{small.east}", "layer": "1", "centre": "zero"}
    found = site.at(f"/runs/{small.text}/samples/0/values", **asked).json()
    assert found["scales"]["text"]["centre"] == 0
    assert found["levels"][0] == 0
    assert all(level > 0 for level in found["levels"][1:])


@pytest.mark.parametrize("feature", [0, 1, 4, 5])
@pytest.mark.parametrize("sample", [(0, range(6)), (1, range(6, 11)), (2, [64, 65, 66, None])])
def test_a_feature_colours_the_tokens_on_which_it_fires(
    site: Site, small: Small, feature: int, sample: tuple[int, list[int | None]]
) -> None:
    number, rows = sample
    asked = {"of": f"feature:{SAE_ID}", "feature": str(feature)}
    found = site.at(f"/runs/{small.text}/samples/{number}/values", **asked).json()
    planted = TEXT_FEATURES.get(feature, {})
    assert found["values"] == [None if row is None else planted.get(row, 0.0) for row in rows]
    assert (found["layer"], found["layers"]) == (1, [1])
    assert [level is not None and level > 0 for level in found["levels"]] == [row in planted for row in rows]


def test_one_token_over_layers_and_its_features(site: Site, small: Small) -> None:
    found = site.at(f"/runs/{small.text}/samples/0/token/3", of=f"vector:{small.east}").json()
    assert [(layer, value) for layer, _, value in found["layers"]] == [(0, 3.0), (1, 3.0), (2, 3.0)]
    assert [(one["id"], one["fires"]) for one in found["features"]] == [(SAE_ID, [[0, 2.0], [1, 0.5]])]
    dropped = site.at(f"/runs/{small.text}/samples/2/token/3").json()
    assert dropped == {"layers": [], "features": []}
    assert site.at(f"/runs/{small.text}/samples/0/token/99").status_code == 404


def test_the_text_of_a_sample_is_whole_and_its_tokens_are_marked(site: Site, small: Small) -> None:
    page = site.page(f"/runs/{small.text}/samples/1")
    assert "<s> look under the bed" in page.text
    anchors = page.all("span", class_="anchor", id="token-")
    assert [a["id"] for a in anchors] == ["token-2"]
    assert [a["id"] for a in page.all("span", class_="special", id="token-")] == ["token-0"]
    data = page.source.split('id="data">')[1].split("</script>")[0]
    assert [token["text"] for token in json.loads(data)["tokens"]] == ["<s>", "look", "under", "the", "bed"]
    assert [a["href"].rpartition("/")[2] for a in page.all("a", rel="prev") + page.all("a", rel="next")] == ["0", "2"]


def test_patches_are_boxes_of_a_grid_and_have_a_scale_of_their_own(site: Site, small: Small) -> None:
    asked = {"of": f"vector:{small.east}", "layer": "1"}
    page = site.page(f"/runs/{small.pictures}/samples/0", **asked)
    boxes = page.all("rect", class_="patch")
    assert [(b["x"], b["width"], b["height"]) for b in boxes] == [
        ("0.0", "24.0", "24.0"),
        ("24.0", "24.0", "24.0"),
        ("48.0", "24.0", "24.0"),
    ]
    found = site.at(f"/runs/{small.pictures}/samples/0/values", **asked).json()
    assert set(found["scales"]) == {"image", "text"}
    assert found["levels"][:3] == [-10, -3, 10] or found["levels"][1] < found["levels"][2]
    assert "comes from a model that this one does not descend from" in found["note"]
    assert site.at(f"/runs/{small.pictures}/samples/0/picture.png").status_code == 404


def test_boxes_lie_where_the_model_looked(small: Small) -> None:
    cache = open_cache_at(small.root)
    found = patches_of(cache.session, cache.sample(small.pictures, 0), size=(300, 100))
    assert found is not None
    assert found.boxes == {
        0: (0.0, 0.0, pytest.approx(1 / 3), 1.0),
        1: (pytest.approx(1 / 3), 0.0, pytest.approx(2 / 3), 1.0),
        2: (pytest.approx(2 / 3), 0.0, pytest.approx(1.0), 1.0),
    }


def test_strongest_tokens_are_those_of_a_search_of_all_rows(small: Small) -> None:
    cache = open_cache_at(small.root)
    for layer, vector in ((0, "east"), (2, "north-east")):
        unit = cache.vector(vector).at(layer) / np.linalg.norm(cache.vector(vector).at(layer))
        values = {row: float(value_of(np.array([row]), layer)[0] @ unit) for row in ROWS if row not in LEFT_OUT}
        order = sorted(values, key=lambda row: (-values[row], row))
        found = cache.top_tokens(vector, layer=layer, run=small.text, n=4)
        assert [t.row_idx for t in found.highest] == order[:4]
        assert [t.row_idx for t in found.lowest] == order[::-1][:4]
        assert [t.value for t in found.highest] == pytest.approx([values[row] for row in order[:4]])
        assert found.n_rows == found.n_rows_of_run == 21
    assert [(t.before, t.token, t.after) for t in found.lowest if t.row_idx == 1] == [("the ", "cat", " is on the mat")]


def test_a_vector_shows_its_strongest_tokens_with_links_to_them(site: Site, small: Small) -> None:
    page = site.page(f"/vectors/{small.east}", layer="2")
    first = page.all("a", href="/samples/")[0]["href"]
    assert first == f"/{TOKEN}/runs/{small.text}/samples/5?of=vector%3A{small.east}&layer=2#token-1"  # row 73: sad
    assert "layer 1: held-out AUC of the projection 0.9" in page.source
    assert "21 of 21 rows were looked at" in page.text
    runs = [r["value"] for r in page.all("option") if len(r.get("value", "")) == 64]
    assert runs[0] == small.text  # the run that it was fitted on


def test_a_feature_page_lists_where_it_fires(site: Site, small: Small) -> None:
    page = site.page(f"/saes/{SAE_ID}/{small.text}", feature="0")
    assert "4 rows" in page.text
    samples = [a["href"].split("/samples/")[1].split("?")[0] for a in page.all("a", href="/samples/")]
    assert samples == ["1", "0", "2"]  # 5.0, 2.0, 1.0; the first position is left out
    assert "Strongest features" in site.page(f"/saes/{SAE_ID}/{small.text}").text
    assert site.at(f"/saes/{SAE_ID}/{small.text}", feature="6").status_code == 400
    assert site.at(f"/saes/{'0' * 64}/{small.text}").status_code == 404


def test_results_have_a_table_or_say_why_not(site: Site, small: Small) -> None:
    assert small.sweep in site.page("/results").source
    answer = site.at(f"/results/{small.sweep}")
    assert answer.status_code == 200
    assert "Test split" in answer.text or "no table of right answers" in answer.text


def test_a_run_whose_arrays_are_damaged_still_shows_its_samples(tmp_path: Path) -> None:
    from tests.index.small import Sentence

    run = add_run(tmp_path / "cache", "broken", [[Sentence(text="some words here")]])
    for path in (tmp_path / "cache" / "runs" / run / "g0001").rglob("c*"):
        if path.is_file():
            path.write_bytes(b"")
    with Site(tmp_path / "cache") as site:
        page = site.page(f"/runs/{run}")
        assert "The rows cannot be shown" in page.text
        assert "some words here" in page.text
        answer = site.at(f"/runs/{run}/samples/0")
        assert answer.status_code in (200, 400)
        assert str(tmp_path) not in answer.text + page.source
