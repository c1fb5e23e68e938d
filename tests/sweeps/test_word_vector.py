"""The positive control: a word's vector, fitted on the text backbone, pushes the multimodal model's answers to that word."""

from collections import Counter
from dataclasses import replace

import pytest

from steercache.data.benchmarks import open_benchmark
from steercache.fit import diagnose, mean_shift
from steercache.queries.session import Session
from steercache.sweeps.evaluation import evaluate
from tests.sweeps.small_run import options
from tests.sweeps.test_run import stored
from tests.world import World

WORD_AGAINST_WORD = """
select t.run_id, t.row_idx, (trim(s.text[t.char_start + 1 : t.char_end]) = $word)::tinyint as label
from tokens t join samples s using (run_id, sample_idx)
where t.run_id = $run and t.is_anchor and trim(s.text[t.char_start + 1 : t.char_end]) in ($word, $other)
"""


@pytest.mark.slow
def test_a_word_vector_on_prompt_tokens_moves_answers_to_the_word_beyond_twenty_random_directions(
    own_session: Session, world: World
) -> None:
    """What "below" has over "left" in sentences, added where the question offers "left" and "right": the model says "below".

    Within a pair of opposites this cannot be shown: tiny tells left from right by hundredths of a logit, and any direction
    tips that. Between pairs the unsteered model never says the word, and random directions of the same norm do not bring it.
    """
    run_id = own_session.sql("select run_id from runs").fetchall()[0][0]
    sel = own_session.select(WORD_AGAINST_WORD, run=run_id, word="below", other="left")
    assert sorted(Counter(sel.label.tolist()).values()) == [4, 4]  # type: ignore[union-attr]
    word = diagnose(sel, mean_shift(sel, name="below"))
    bench = open_benchmark("scenes", task="Relation", form="word", limit=120)
    bench = replace(bench, examples=tuple(e for e in bench.examples if "left" in e.labels.choices))
    asked = options(
        layers=(4,),
        alphas=(1.0,),
        alpha_unit="resid_norm",
        n=12,
        controls=20,
        control_kinds=("random",),
        split="search",
        prompting="",
        damage=False,
        max_new_tokens=1,
    )
    found = evaluate(own_session, world.loaded, bench, vectors=[word], options=asked)
    (row,) = found.rows
    assert row.lineage == "backbone"
    said: dict[str, Counter[str]] = {}
    for (_, cell, _), answer in stored(own_session, found.sweep_id).items():
        said.setdefault(cell, Counter())[str(answer["raw"]).strip()] += 1
    belows = {cell: words["below"] for cell, words in said.items()}
    mine = belows.pop(row.cell.cell_id)
    controls = {control.cell.cell_id for control in row.controls}
    assert len(controls) == 20
    (unsteered,) = set(belows) - controls
    assert belows[unsteered] == 0
    best_random = max(belows[cell] for cell in controls)
    assert mine > best_random
    assert (mine, best_random) == (12, 0)
