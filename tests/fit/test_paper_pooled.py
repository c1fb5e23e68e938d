"""The paper's pooled means (arXiv 2505.14071), by an implementation of our own that knows nothing of the package.

The documented way is `anchors: optional` in the data set, the query `anchor_vs_control` and the recipe `paper`.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from steercache.core.errors import ManifestError
from steercache.fit import mean_shift
from steercache.queries.session import Session, open_session
from tests.models.tiny import N_LAYERS, write_tiny
from tests.tracing import write_small_trace

SENTENCES = [
    ("The cats sat on it", "The"),  # on the first token only
    ("The dog and the cat", "the"),  # on the first token and later
    ("A box is under the table", "under"),
    ("unusually small boxes of red", "unusually"),  # of several tokens, from the first one on
    ("Nobody saw three cars", ""),  # none given
    ("in front of the moon", "in front of"),
]


def by_hand(folder: Path, *, keep_first: bool) -> np.ndarray[Any, Any]:
    """mean(anchor rows) - mean(control rows) over all tokens of all sentences, (l, d), in float64.

    Position 0 and special tokens are no controls; position 0 is an anchor only with `keep_first`.
    """
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    seen: list[torch.Tensor] = []
    for block in model.model.layers:
        block.register_forward_hook(lambda m, a, out: seen.append((out[0] if isinstance(out, tuple) else out)[0]))
    anchors, controls = [], []
    for text, anchor in SENTENCES:
        words = [m.span() for m in re.finditer(rf"\b{anchor}\b", text, re.IGNORECASE)] if anchor else []
        encoding = tokenizer(text, return_offsets_mapping=True, return_special_tokens_mask=True)
        seen.clear()
        with torch.no_grad():
            model(torch.tensor([encoding["input_ids"]]))
        rows = torch.stack(seen).double().numpy()  # (l, t, d)
        for t, (start, end) in enumerate(encoding["offset_mapping"]):
            if encoding["special_tokens_mask"][t]:
                continue
            characters = {i for i in range(start, end) if text[i] != " "}
            hit = any(characters & set(range(*word)) for word in words)
            if hit and (t > 0 or keep_first):
                anchors.append(rows[:, t])
            elif not hit and t > 0:
                controls.append(rows[:, t])
    shift: np.ndarray[Any, Any] = np.mean(anchors, axis=0) - np.mean(controls, axis=0)
    return shift


def traced(
    folder: Path, sentences: Sequence[tuple[str, str]] = SENTENCES, *, rows: Any = None, **dataset: Any
) -> Session:
    """A session over a run of the sentences, of which `rows` are kept."""
    lines = [{"text": text, "anchor": anchor, "concept": "counting"} for text, anchor in sentences]
    source = {"type": "jsonl", "path": "data.jsonl", "columns": {"anchor": "anchor", "concept": "concept"}}
    document = {"kind": "dataset", "version": 1, "name": "words", "source": source, **dataset}
    trace = write_small_trace(folder, datasets=[document], rows=rows or {"policy": "all"})
    (folder / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    root = folder / f"root-{len(list(folder.glob('root-*')))}"
    trace.build(root)
    return open_session(root)


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("first", ["refuse", "allow"])
def test_optional_anchors_and_the_recipe_paper_are_the_papers_pooled_means(
    tmp_path: Path, bos: bool, first: str
) -> None:
    folder = tmp_path / "t"
    write_tiny("llama", folder / "model", bos=bos)
    session = traced(folder, anchors="optional", first_position=first)
    found = mean_shift(session.select("anchor_vs_control", concept="counting"), recipe="paper")
    expected = by_hand(folder / "model", keep_first=first == "allow")
    assert found.layers == tuple(range(N_LAYERS))
    np.testing.assert_allclose(found.values, expected, rtol=2e-5, atol=2e-6)


def test_without_bos_the_first_token_is_no_anchor_and_its_sentence_keeps_its_controls(tmp_path: Path) -> None:
    folder = tmp_path / "t"
    write_tiny("llama", folder / "model")
    session = traced(folder, anchors="optional")
    roles = session.sql(
        "select sample_idx, count(*) filter (is_anchor), count(*) filter (is_control), bool_or(is_anchor and position = 0)"
        " from tokens group by all order by all"
    ).fetchall()
    by_sample = {sample: (n_anchor > 0, n_control > 0, first) for sample, n_anchor, n_control, first in roles}
    assert by_sample == {
        0: (False, True, False),
        1: (True, True, False),
        2: (True, True, False),
        3: (True, True, False),
        4: (False, True, False),
        5: (True, True, False),
    }
    assert session.query("check_anchors_missing").fetchall() == []
    assert session.query("check_first_position_anchor").fetchall() == []


def test_allow_makes_the_first_token_an_anchor_and_refuse_names_its_remedies(tmp_path: Path) -> None:
    folder = tmp_path / "t"
    write_tiny("llama", folder / "model")
    kept = [row for row in SENTENCES if row[1]]
    with pytest.raises(ManifestError, match=r"first_position: allow.*anchors: optional"):
        traced(folder, kept)
    session = traced(folder, kept, first_position="allow")
    assert len(session.query("check_first_position_anchor").fetchall()) == 4


def test_rows_that_are_kept_by_role_are_those_of_the_same_rule(tmp_path: Path) -> None:
    folder = tmp_path / "t"
    write_tiny("llama", folder / "model")
    session = traced(folder, anchors="optional")
    expected = session.sql("select count(*) from tokens where is_anchor or is_control").fetchall()
    by_role = traced(folder, anchors="optional", rows={"policy": "roles", "roles": ["anchor", "control"]})
    assert by_role.sql("select count(*) from tokens where row_idx is not null").fetchall() == expected
