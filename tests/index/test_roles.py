"""Anchors and controls: the rule in plain Python, from the words of the method, against the index and against `trace`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steercache.core.examples import TOKEN_KINDS
from steercache.index.files import over_files
from steercache.index.ingest import drop_run
from steercache.index.migrate import migrate
from steercache.trace.encode import anchor_mask, control_mask
from tests.index.contents import put_part
from tests.index.small import RUN_A, Sentence, run_row, words_of, write_run
from tests.quick import costly

words = st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=8)


@st.composite
def sentences(draw: st.DrawFn) -> Sentence:
    """A sentence with no label, a label without anchors, or anchors over characters of it, even outside or empty."""
    text = " ".join(draw(words))
    bounds = st.tuples(st.integers(0, len(text) + 2), st.integers(1, 5)).map(
        lambda s: {"start": s[0], "end": s[0] + s[1]}
    )
    anchors = draw(st.one_of(st.none(), st.just([]), st.lists(bounds, min_size=1, max_size=3)))
    label = {"concept": "c", "anchors": anchors, "controls": draw(st.sampled_from([None, True, False]))}
    labels = draw(st.one_of(st.none(), st.just(label)))
    return Sentence(text=text, labels=labels, bos=draw(st.booleans()))


def roles_by_hand(sentence: Sentence) -> list[tuple[bool, bool]]:
    """(is_anchor, is_control) of each token: it shares a character with an anchor's span; it is another token of such a
    sentence (or of one that is said to have controls), no special one, and not at position 0."""
    anchors = (sentence.labels or {}).get("anchors") or []
    controls = (sentence.labels or {}).get("controls")
    controls = bool(anchors) if controls is None else controls
    spanned = {c for span in anchors for c in range(span["start"], span["end"])}
    found = []
    for position, (_, start, end, kind) in enumerate(words_of(sentence)):
        is_anchor = bool(spanned & set(range(start, end))) if start >= 0 else False
        is_control = controls and not is_anchor and kind == "text" and position > 0
        found.append((is_anchor, is_control))
    return found


@pytest.fixture(scope="module")
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    con = duckdb.connect(":memory:")
    migrate(con)
    yield con
    con.close()


@costly(6)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(corpus=st.lists(sentences(), min_size=1, max_size=8))
def test_the_index_gives_every_token_the_role_that_the_method_says(
    con: duckdb.DuckDBPyConnection, corpus: list[Sentence], tmp_path: Path
) -> None:
    run = write_run(tmp_path, run_row(RUN_A, "run"), [corpus])
    put_part(con, run, run.shards[0], run.tokens[0], run.samples[0])
    found = roles_of(con)
    drop_run(con, RUN_A)
    files = over_files([run], [], [])
    without_index = roles_of(files)
    files.close()
    expected = [role for sentence in corpus for role in roles_by_hand(sentence)]
    assert found == expected
    assert without_index == expected


def roles_of(con: Any) -> list[tuple[bool, bool]]:
    rows: list[tuple[bool, bool]] = con.execute(
        "SELECT is_anchor, is_control FROM tokens ORDER BY sample_idx, position"
    ).fetchall()
    return rows


@settings(max_examples=100, deadline=None)
@given(sentence=sentences())
def test_row_policies_know_the_same_rule(sentence: Sentence) -> None:
    anchors = [(s["start"], s["end"]) for s in (sentence.labels or {}).get("anchors") or [] if s["start"] < s["end"]]
    touched = {c for start, end in anchors for c in range(start, end)} & set(range(len(sentence.text)))
    if any(sentence.text[c] == " " for c in touched) or not touched:
        anchors = [(0, 1)]  # an anchor holds characters of words; an example whose anchors do not is refused by `trace`
    tokens = words_of(sentence)
    spans = np.array([(start, end) for _, start, end, _ in tokens], dtype=np.int32)
    kind = np.array([TOKEN_KINDS.index(kind) for *_, kind in tokens], dtype=np.int8)
    is_anchor = anchor_mask(spans, anchors)
    for controls in (None, True, False):
        said = {"anchors": [{"start": s, "end": e} for s, e in anchors], "controls": controls}
        by_hand = roles_by_hand(Sentence(text=sentence.text, bos=sentence.bos, labels=said))
        is_control = control_mask(kind, spans, is_anchor, labelled=bool(anchors) if controls is None else controls)
        assert list(zip(is_anchor.tolist(), is_control.tolist(), strict=True)) == by_hand
