"""The table of tokens, column by column, against what is worked out by hand."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steercache.core.errors import QueryError, UsageError
from steercache.core.examples import TOKEN_KINDS, EncodedSample
from steercache.queries.token_clause import canonical_target, plan_tokens, read_token_clause
from steercache.queries.token_table import COLUMNS, TokenFacts, facts_of, token_columns
from tests.quick import costly

TEXT = "The dog is left of the cat's bed."
PIECES = ["<s>", "The", "dog", "is", "left", "of", "the", "cat", "'s", "bed", "."]


class Tokenizer:
    """Ids are places in `PIECES`; 20 and more are patches."""

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [PIECES[i] if i < len(PIECES) else f"<patch{i}>" for i in ids]


def sample() -> EncodedSample:
    """Two rows of two patches, then BOS and the words of `TEXT`."""
    starts, at = [], 0
    for piece in PIECES[1:]:
        at = TEXT.index(piece, at)
        starts.append(at)
        at += len(piece)
    n = 4 + len(PIECES)
    start = np.array([-1] * 5 + starts, dtype=np.int32)
    end = np.array([-1] * 5 + [a + len(p) for a, p in zip(starts, PIECES[1:], strict=True)], dtype=np.int32)
    row, col = (np.array([*one, *[-1] * len(PIECES)], dtype=np.int32) for one in ((0, 0, 1, 1), (0, 1, 0, 1)))
    return EncodedSample(
        text=TEXT,
        input_ids=np.array([20, 21, 22, 23, *range(len(PIECES))], dtype=np.int32),
        char_start=start,
        char_end=end,
        kind=np.array([TOKEN_KINDS.index("image")] * 4 + [TOKEN_KINDS.index("special")] + [0] * 10, dtype=np.int8),
        is_anchor=np.zeros(n, dtype=bool),
        is_control=np.zeros(n, dtype=bool),
        tile=np.array([0] * 4 + [-1] * 11, dtype=np.int32),
        patch_row=row,
        patch_col=col,
        image_digests=("ab",),
    )


def chosen(text: str) -> list[str]:
    (weights,) = plan_tokens(read_token_clause(text), [facts_of(sample())], tokenizer=Tokenizer())
    return Tokenizer().convert_ids_to_tokens(sample().input_ids[weights != 0].tolist())


def test_every_column_is_what_the_sample_says() -> None:
    one = sample()
    made = token_columns(frozenset(COLUMNS), [facts_of(one), facts_of(one)], Tokenizer())
    table = {name: column.to_pylist() for name, column in made.items()}
    assert set(table) == set(COLUMNS)
    assert {len(column) for column in table.values()} == {30}
    assert all(column[:15] == column[15:] for column in table.values())
    first = {name: column[:15] for name, column in table.items()}
    assert first["position"] == list(range(15))
    assert first["from_end"] == list(range(14, -1, -1))
    assert first["kind"] == ["image"] * 4 + ["special"] + ["text"] * 10
    assert first["text"] == [None] * 5 + PIECES[1:]
    assert first["word"] == [None] * 5 + ["The", "dog", "is", "left", "of", "the", "cat's", "cat's", "bed", None]
    assert first["before"][8:13] == [
        "The dog is ",
        "The dog is left ",
        "The dog is left of ",
        *["The dog is left of the "] * 2,
    ]
    assert first["piece"] == Tokenizer().convert_ids_to_tokens(one.input_ids.tolist())
    assert first["patch_row"] == [0, 0, 1, 1, *[-1] * 11]
    assert first["patch_col"] == [0, 1, 0, 1, *[-1] * 11]
    assert first["n_tokens"] == [15] * 15
    assert first["n_images"] == [1] * 15
    assert first["sample_id"] == [one.sample_id] * 15
    assert first["generated"] == [None] * 15


def test_targets_that_people_want_are_one_line() -> None:
    assert chosen("sql: kind = 'image' and patch_row < 1") == ["<patch20>", "<patch21>"]
    assert chosen("sql: kind = 'text' and from_end < 3") == ["'s", "bed", "."]
    assert chosen("sql: row_number() over (partition by kind order by position desc) <= 2 and kind = 'text'") == [
        "bed",
        ".",
    ]
    assert chosen("sql: before like '%left of the '") == ["cat", "'s"]  # the noun after "left of", in all its tokens
    after = "lag(text) over (order by position) = 'of' and lag(text, 2) over (order by position) = 'left'"
    assert chosen(f"sql: {after}") == ["the"]
    assert chosen("sql: position between (select position from tokens where text = 'left') and 9") == ["left", "of"]


def test_of_token_ids_alone_only_what_they_say_is_known() -> None:
    facts = TokenFacts(token_id=np.array([0, 1, 2], dtype=np.int32), kind=np.array([1, 0, 0], dtype=np.int8))
    (weights,) = plan_tokens(read_token_clause("piece = 'dog' and kind = 'text'"), [facts], tokenizer=Tokenizer())
    assert weights.tolist() == [0, 0, 1]
    for column in ("text", "word", "before", "patch_row", "sample_id", "n_images", "char_start"):
        with pytest.raises(UsageError, match=f"the column {column} is not known"):
            plan_tokens(read_token_clause(f"{column} is null"), [facts], tokenizer=Tokenizer())
    with pytest.raises(QueryError, match="colour") as caught:
        plan_tokens(read_token_clause("colour = 'red'"), [facts])
    assert "patch_row" in str(caught.value.hint)


def test_a_target_by_name_is_its_own_canonical_text() -> None:
    assert canonical_target("image") == "image"
    assert canonical_target("sql:Kind='image'") == "sql: kind = 'image'"


@st.composite
def conditions(draw: st.DrawFn) -> tuple[str, Callable[[dict[str, Any]], bool]]:
    """A condition on a token by itself as SQL, and the same in Python."""
    leaves: list[tuple[str, Callable[[dict[str, Any]], bool]]] = []
    for _ in range(draw(st.integers(1, 4))):
        n, kind = draw(st.integers(-1, 8)), draw(st.sampled_from(["image", "text", "special", "template"]))
        column = draw(st.sampled_from(["position", "from_end", "patch_row", "patch_col", "token_id", "char_start"]))
        leaves.append(
            draw(
                st.sampled_from(
                    [
                        (f"{column} < {n}", lambda t, c=column, n=n: t[c] < n),
                        (f"{column} % 3 = {n % 3}", lambda t, c=column, n=n: int(np.fmod(t[c], 3)) == n % 3),
                        (f"kind = '{kind}'", lambda t, k=kind: t["kind"] == k),
                        (f"kind not in ('{kind}', 'image')", lambda t, k=kind: t["kind"] not in (k, "image")),
                        (f"coalesce(len(word), 0) = {n}", lambda t, n=n: len(t["word"] or "") == n),
                    ]
                )
            )
        )
    sql, holds = leaves[0]
    for text, other in leaves[1:]:
        if draw(st.booleans()):
            sql, holds = f"({sql} and not ({text}))", lambda t, a=holds, b=other: a(t) and not b(t)
        else:
            sql, holds = f"({sql} or {text})", lambda t, a=holds, b=other: a(t) or b(t)
    return sql, holds


@costly(10)
@settings(deadline=None)
@given(condition=conditions(), copies=st.integers(1, 3))
def test_any_condition_selects_what_python_selects(
    condition: tuple[str, Callable[[dict[str, Any]], bool]], copies: int
) -> None:
    sql, holds = condition
    facts = facts_of(sample())
    made = token_columns(frozenset(COLUMNS), [facts], Tokenizer())
    rows = [
        dict(zip(made, values, strict=True)) for values in zip(*(c.to_pylist() for c in made.values()), strict=True)
    ]
    for weights in plan_tokens(read_token_clause(f"sql: {sql}"), [facts] * copies, tokenizer=Tokenizer()):
        assert weights.tolist() == [float(holds(row)) for row in rows], sql
