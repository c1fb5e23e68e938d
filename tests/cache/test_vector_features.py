"""Features of SAE vectors as rows of the index: made from the vector's file, whatever its provenance holds."""

from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from steercache.cache.handle import open_cache
from steercache.cache.vector_features import feature_rows
from steercache.cache.vectors import save_vector
from steercache.core.vectors import SteeringVector
from tests.quick import costly

COLUMNS = {
    "feature": [7, 9, 11],
    "rank": [1, 2, 3],
    "score": [2.5, 2, 0.5],
    "n_sentences": [5, 4, 1],
    "rate_anchor": [0.5, 0.25, 0.125],
    "rate_control": [0.0, 0.25, 0.0],
    "p": [0.001, None, 1.0],
    "q": [0.002, None, 1.0],
    "picked": [True, True, False],
    "selected": [True, True, False],
    "verdict": ["yes", "yes", None],
    "judge": ["m", "m", None],
    "prompt_version": [1, 1, None],
    "verdict_digest": ["d1", "d2", None],
    "explanation": ["numbers", None, None],
    "reason": ["place 1", "place 2", "too few"],
}


def vector(provenance: Any, method: str = "sae") -> SteeringVector:
    return SteeringVector(
        name="counting-sae",
        method=method,
        concept="counting",
        site="resid_post",
        layers=(3,),
        values=np.ones((1, 4), np.float32),
        provenance=provenance,
    )


MADE = {"run_id": "r", "params": {"selection": "paper"}, "saes": {"3": {"sae_id": "s"}}, "features": {"3": COLUMNS}}


def test_a_row_has_everything_that_the_vector_says_of_a_feature(tmp_path: Path) -> None:
    cache = open_cache(tmp_path, create=True)
    save_vector(cache, vector(MADE))
    with cache.connection() as con:
        names = (
            "layer, feature_idx, rank, score, hits, n_sentences, p, selected, weight, verdict, judge, selection, reason"
        )
        rows = con.execute(
            f"SELECT {names} FROM features JOIN vectors USING (vector_id, layer) ORDER BY rank"
        ).fetchall()
        ids = con.execute("SELECT DISTINCT sae_id, run_id, features.concept FROM features").fetchall()
    assert rows == [
        (3, 7, 1, 2.5, 5, 5, 0.001, True, 0.5, "yes", "m", "paper", "place 1"),
        (3, 9, 2, 2.0, 4, 4, None, True, 0.5, "yes", "m", "paper", "place 2"),
        (3, 11, 3, 0.5, 1, 1, 1.0, False, None, None, None, "paper", "too few"),
    ]
    assert ids == [("s", "r", "counting")]
    cache.paths.vector(vector(MADE).vector_id).unlink()
    with cache.connection() as con:
        assert con.execute("SELECT count(*) FROM features").fetchall() == [(0,)]


def test_only_vectors_of_saes_have_features() -> None:
    assert feature_rows(vector(MADE, method="mean_shift")) == []
    assert feature_rows(vector({})) == []


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*COLUMNS, "3", "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@costly(12)
@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_provenance_of_any_other_shape_is_taken_in_without_an_error(data: st.DataObject) -> None:
    columns = {name: data.draw(st.just(values) | ODD) for name, values in COLUMNS.items()}
    made = {name: data.draw(st.just(value) | ODD) for name, value in (MADE | {"features": {"3": columns}}).items()}
    for row in feature_rows(vector(made)):
        assert isinstance(row["feature_idx"], int)
        assert row["sae_id"] == "s"
        for name, value in row.items():
            assert value is None or isinstance(value, str | bool | int | float), name


def test_an_index_takes_any_such_row(tmp_path: Path) -> None:
    cache = open_cache(tmp_path, create=True)
    odd = {
        "feature": [2**40, -1, True, 5],
        "score": ["x", None, 1, 2**70],
        "rank": [1, 1, 1, 2**62],
        "reason": [1, 2, 3, 4],
    }
    save_vector(cache, vector(MADE | {"features": {"3": odd, "x": COLUMNS, "99999999999": COLUMNS}}))
    with cache.connection() as con:
        assert con.execute("SELECT feature_idx, score, rank, reason FROM features").fetchall() == [
            (5, None, None, None)
        ]
