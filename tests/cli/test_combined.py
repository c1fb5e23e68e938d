"""`--combine` of `steercache eval`, and a grid of combinations at the terminal."""

import json
from pathlib import Path

import numpy as np
import pytest

from steercache.api.evaluating import EvalOptions, GridAxes
from steercache.cache.handle import open_cache
from steercache.cli.combined import WrittenPart, combinations_of, read_combination
from steercache.core.errors import UsageError
from steercache.queries.session import open_session
from tests.cli.small import Terminal
from tests.sweeps.small_run import vector


def test_parts_are_read_as_they_are_written() -> None:
    text = (
        "a b@2 alpha=-4.5 ; 'my vector@3' operation=clamp:value=2,\ttarget=\"sql: kind = 'image' and position < 3; x\""
    )
    with pytest.raises(UsageError, match="'a' is not VECTOR@LAYER"):
        read_combination(text)
    assert read_combination(text[2:]) == (
        WrittenPart(vector="b", layer=2, more={"alpha": "-4.5"}),
        WrittenPart(
            vector="my vector",
            layer=3,
            more={"operation": "clamp:value=2,", "target": "sql: kind = 'image' and position < 3; x"},
        ),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        *(
            ("", "no parts"),
            (" ; ;", "no parts"),
            ("v@", "VECTOR@LAYER"),
            ("@3", "VECTOR@LAYER"),
            ("v@-1", "VECTOR@LAYER"),
        ),
        *(("v@1 alpha", "'alpha' is none of"), ("v@1 alpha=", "is none of"), ("v@1 alpha=1 alpha=2", "is none of")),
        *(("v@1 layer=2", "is none of"), ("v@1 target='image", "No closing quotation")),
    ],
)
def test_a_text_that_is_no_combination_says_why(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_combination(text)


def test_a_part_leaves_unit_and_place_to_the_other_options_or_has_its_own(tmp_path: Path) -> None:
    open_cache(tmp_path / "cache", create=True)
    open_session(tmp_path / "cache").save(vector(np.eye(6, 96, dtype=np.float32), name="first"))
    axes = GridAxes(layers=(0,), alphas=(1.0,), targets=("text",), alpha_unit="kl", place="mlp_out")
    written = read_combination("first@2; first@2 place=resid_pre alpha_unit=raw")
    ((left, own),) = combinations_of([written], EvalOptions(axes=axes), tmp_path / "cache").values()
    assert (left.place, left.alpha_unit) == ("mlp_out", "kl")
    assert (own.place, own.alpha_unit) == ("resid_pre", "raw")


def test_an_evaluation_of_several_vectors_at_once_shows_its_parts(work: Path, terminal: Terminal) -> None:
    session = open_session(work / "cache")
    for seed, name in enumerate(("first", "second")):
        session.save(vector(np.random.default_rng(seed).normal(size=(6, 96)).astype(np.float32), name=name))
    words = ("eval", "tiny", "scenes", "--task", "Count", "--form", "number", "--n", "6", "--split", "search")
    words += ("--allow-foreign", "--controls", "2", "--control-kinds", "random", "--target", "text")
    both = "first@3 alpha=2; second@2 operation=project_out target=image"
    assert terminal(*words, "--combine", both) == 0, terminal.err
    assert "second: layer 2, alpha 1, project_out, image + first: layer 3, alpha 2, text" in terminal.out
    assert terminal(*words, "--combine", both, "--json") == 0
    found = json.loads(terminal.out)
    (row,) = (row for split in found["splits"] for row in split["rows"] if row["role"] == "vector")
    assert row["name"] == "first@3 + second@2"
    assert [part["layer"] for part in row["cell"]["parts"]] == [2, 3]
    assert len(row["controls"]) == 2
    assert found["n_computed"] == 0
    assert terminal("report", "html", found["sweep_id"], "--out", "page.html") == 0, terminal.err
    page = (work / "page.html").read_text()
    assert "second: layer 2, alpha 1, project_out, image" in page
    assert "Several vectors at once" in page
    assert terminal(*words, "--combine", "first@3 alpha=2; nobody@2") == 4
    assert terminal(*words, "--alpha", "1,2", "--combine", "first@3; second@2") == 2
    assert "first@3 has no alpha, and there are several" in terminal.err
    assert terminal(*words, "--combine", "first@2 place=mlp") == 2
    assert "no place named 'mlp'" in terminal.err
    assert terminal(*words, "--combine", "first@9") == 2
    assert "no layer 9" in terminal.err
