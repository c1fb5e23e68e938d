"""Rows of a fit chosen by the text of a target: the same tokens that steering would take."""

from typing import Any

import numpy as np
import pytest

from steercache.core.errors import QueryError
from steercache.core.recorded_rows import rows_of
from steercache.fit import mean_shift
from steercache.queries.session import Session

ALL = "SELECT run_id, row_idx FROM tokens WHERE run_id = $run AND row_idx IS NOT NULL"


def chosen(session: Session, where: str, **how: Any) -> list[int]:
    return session.select(ALL, run="text", where=where, **how).rows.tolist()


def test_rows_are_those_whose_tokens_the_target_selects(session: Session) -> None:
    # 0 the 1 cat 2 is 3 ON 4 the 5 mat | 6 <s> 7 look 8 UNDER 9 the 10 bed | 64 I 65 saw 66 TWO | 67.. plain words ...
    assert chosen(session, "sql: piece = 'the'") == [0, 4, 9]
    assert chosen(session, "kind = 'special'") == [6]
    assert chosen(session, "from_end = 0") == [5, 10, 68, 71, 73]  # the last token of one sample was not kept
    assert chosen(session, "lag(text) over (order by position) = 'the'") == [1, 5, 10]
    assert chosen(session, "before like '%saw '") == [66]
    assert chosen(session, "position = (select max(position) from tokens) - 1") == [4, 9, 66, 67, 70, 72]


def test_activations_of_the_run_and_vectors_of_the_cache_decide(session: Session) -> None:
    # of row r at layer 2 the values are (r, 2, 2 r, 1), and `east` there is (2, 0, 0, 0)
    where = "list_inner_product(activation(2), vector('east', 2)) > 140"
    sel = session.select(ALL, run="text", where=f"{where} and n_tokens < 4")
    assert sel.rows.tolist() == [71, 72, 73]
    assert sel.query.where is not None
    assert session.vector("east").vector_id in sel.query.where
    with pytest.raises(QueryError, match="did not keep the activations"):
        chosen(session, where)


def test_weights_and_labels_stay_with_their_rows_and_a_fit_can_be_made_again(session: Session) -> None:
    where = "select position, 1.0 + position as weight from tokens where position > 1"
    sel = session.select("anchor_vs_control", run="text", concept="spatial", split="train", where=where)
    assert sel.rows.tolist() == [2, 3, 4, 5]
    assert sel.label is not None
    assert sel.weight is not None
    assert sel.label.tolist() == [0, 1, 0, 0]
    assert sel.weight.tolist() == [3, 4, 5, 6]
    whole = session.select("anchor_vs_control", run="text", concept="spatial", split="train", where="position >= 2")
    assert whole.words is not None
    assert (
        whole.words().tolist()
        == session.select("anchor_vs_control", run="text", concept="spatial", split="train").words()[1:].tolist()
    )
    vector = mean_shift(whole)
    assert vector.provenance["query"]["where"] == "sql: position >= 2"
    again = rows_of(vector, session)
    assert np.array_equal(again.rows, whole.rows)
    assert mean_shift(again).vector_id == vector.vector_id
    plain = mean_shift(session.select("anchor_vs_control", run="text", concept="spatial", split="train"))
    assert "where" not in plain.provenance["query"]
    with pytest.raises(QueryError, match="none of the"):
        chosen(session, "position > 100")
    with pytest.raises(QueryError, match="not negative"):
        chosen(session, "select position, -1.0 as weight from tokens")
