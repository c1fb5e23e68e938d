"""An evaluation against independent recomputations: from stored answers, by one-at-a-time generation, and by planting."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest
from statsmodels.stats.multitest import multipletests

from steercache.answers import store as run_store
from steercache.benchmarks.questions import read_questions
from steercache.benchmarks.task import PLAIN, ask, attend_to, pick_rows
from steercache.cells.options import ControlOptions, EvalOptions
from steercache.core.errors import PartlyFailedError, UsageError
from steercache.data import scenes
from steercache.data.benchmarks import Benchmark, open_benchmark
from steercache.queries.session import Session
from steercache.steering.gradient import margin_gradients
from steercache.sweeps.evaluation import evaluate
from steercache.sweeps.find import read_sweep
from steercache.sweeps.ledger import read_entries
from steercache.sweeps.result import SweepResult
from steercache.trace.batches import pad_batch
from tests.data.benchmarks.layouts import CV_BENCH, write_table
from tests.sweeps.small_run import options, vector
from tests.world import World


def counts(n: int = 60) -> Benchmark:
    return open_benchmark("scenes", task="Count", form="number", limit=n)


def stored(session: Session, sweep_id: str) -> dict[tuple[str, str, str], dict[str, Any]]:
    """Every stored answer by split, cell and sample."""
    rows = session.sql("select * from answers where sweep_id = $sweep", sweep=sweep_id).to_arrow_table().to_pylist()
    return {(r["split"], r["cell_id"], r["sample_id"]): r for r in rows}


def ids_of(found: SweepResult, session: Session, name: str) -> list[str]:
    """Cells of one vector by name, from the index alone."""
    query = (
        "select c.cell_id from cells c join vectors v on v.vector_id = c.vector_id and v.layer = c.layer"
        " where c.sweep_id = $sweep and v.name = $name"
    )
    return [row[0] for row in session.sql(query, sweep=found.sweep_id, name=name).fetchall()]


def test_the_table_follows_from_the_stored_answers_alone(own_session: Session, world: World) -> None:
    asked = options(alphas=(3.0, 9.0), layers=(1, 3), controls=4, n=8)
    vectors = [own_session.vector("counting"), own_session.vector("spatial_relationship")]
    found = evaluate(own_session, world.loaded, counts(), vectors=vectors, options=asked)
    answers = stored(own_session, found.sweep_id)
    right = {key: bool(row["correct"]) for key, row in answers.items()}
    samples = {split: sorted({s for p, _, s in answers if p == split}) for split in ("search", "test")}
    assert {split: len(some) for split, some in samples.items()} == found.n_samples == {"search": 8, "test": 8}
    cells = {
        r[0]: r[1:]
        for r in own_session.sql(
            "select cell_id, vector_id, layer, alpha, prompt_id from cells where sweep_id = $s", s=found.sweep_id
        ).fetchall()
    }
    (baseline,) = [c for c, (v, _, _, prompt) in cells.items() if v is None and prompt == "plain"]
    assert len(cells) == 1 + 1 + 2 * 4 * (1 + 4)
    assert found.baseline == {p: sum(right[p, baseline, s] for s in some) / len(some) for p, some in samples.items()}

    def score(split: str, cell: str) -> int:
        return sum(right[split, cell, s] for s in samples[split])

    def chosen(name: str) -> str:
        order = sorted(ids_of(found, own_session, name), key=lambda c: (-score("search", c), cells[c][2], cells[c][1]))
        return order[0]

    for row in found.rows:
        cell = row.cell.cell_id
        if row.role == "vector":
            assert cell == chosen(row.name)
            tested = {c for p, c, _ in answers if p == "test"} & set(ids_of(found, own_session, row.name))
            assert tested == {cell}  # nothing is chosen on the test split
            gains = [
                (score(row.split, chosen(c.name)) - score(row.split, baseline)) / len(samples[row.split])
                for c in row.controls
            ]
            assert [c.gain for c in row.controls] == pytest.approx(gains)
            gain = (score(row.split, cell) - score(row.split, baseline)) / len(samples[row.split])
            assert row.rank_p == (1 + sum(g >= gain - 1e-12 for g in gains)) / 5
            assert Counter(c.kind for c in row.controls)["other_concept"] >= 1
        was = np.array([right[row.split, baseline, s] for s in samples[row.split]])
        now = np.array([right[row.split, cell, s] for s in samples[row.split]])
        c = row.comparison
        assert (c.before, c.after) == (was.mean(), now.mean())
        helped, hurt = int((now & ~was).sum()), int((was & ~now).sum())
        p = binomtest(helped, helped + hurt).pvalue if helped + hurt else 1.0
        assert (c.mcnemar.helped, c.mcnemar.hurt) == (helped, hurt)
        assert c.mcnemar.p_unclustered == pytest.approx(p)
        assert c.unread_after == np.mean([answers[row.split, cell, s]["parsed"] is None for s in samples[row.split]])
        said = Counter(answers[row.split, cell, s]["parsed"] or "" for s in samples[row.split])
        assert dict(zip(c.letters.letters, c.letters.after, strict=True)) == {k: said[k] for k in c.letters.letters}
    for split in ("search", "test"):
        rows = [row for row in found.rows if row.split == split]
        adjusted = multipletests([r.comparison.p_clustered for r in rows], method="holm")[1]
        assert [r.p_holm for r in rows] == pytest.approx(adjusted)
        assert [r.role for r in rows] == ["prompting", "vector", "vector"]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside transformers' processor
def test_answers_are_those_of_one_picture_at_a_time_with_a_hook(own_session: Session, world: World) -> None:
    bench = open_benchmark("scenes", form="word", limit=40)
    vec = own_session.vector("counting")
    found = evaluate(
        own_session, world.loaded, bench, vectors=[vec], options=options(controls=0, prompting="", layers=(3,), n=12)
    )
    answers = stored(own_session, found.sweep_id)
    steered_id = found.rows[0].cell.cell_id
    for split in ("search", "test"):
        examples = pick_rows(bench, split, n=12, orphans="test")  # type: ignore[arg-type]
        asked = ask(examples, world.loaded.bundle, split=split)  # type: ignore[arg-type]
        for example, one in zip(examples, asked, strict=True):
            kind = one.labels.meta["kind"]
            for alpha, cell in ((0.0, None), (4.0, steered_id)):
                words = by_hand(world.loaded, example, vec.at(3) * np.float32(alpha), layer=3, n_new=3)
                rows = [
                    r
                    for (p, c, s), r in answers.items()
                    if (p, s) == (split, one.sample_id) and (c == steered_id) == bool(cell)
                ]
                assert [r["raw"] for r in rows] == [words] or (rows[0]["cell_id"], one.sample_id) in found.near_ties
                assert kind in ("text", "count")
    assert not found.computed_in_full
    assert len(found.near_ties) <= 2


def by_hand(loaded: Any, example: Any, delta: np.ndarray[Any, Any], *, layer: int, n_new: int) -> str:
    """PaliGemma's prompt written out here, its processor, a hook on one block at text tokens, `generate`."""
    import io

    import torch
    from PIL import Image

    words = {"text": "Answer with one word.", "count": "Answer with the number only."}[example.labels.meta["kind"]]
    text = f"<image>answer en {words}\n{example.labels.meta['prompt']}"
    image = Image.open(io.BytesIO(example.images[0].load())).convert("RGB")
    inputs = loaded.processor(images=[[image]], text=[text], return_tensors="pt")
    inputs.pop("labels", None)
    ids = inputs["input_ids"][0]
    special = torch.tensor([*loaded.tokenizer.all_special_ids, loaded.config.image_token_id])
    mask = ~torch.isin(ids, special)
    mask[-1] = False

    def hook(module: Any, args: Any, out: Any) -> Any:
        if out.shape[1] != len(ids):
            return None  # a generated token
        moved = out.clone()
        moved[0, mask] += torch.from_numpy(delta)
        return moved

    handle = loaded.model.model.language_model.layers[layer].register_forward_hook(hook)
    out = loaded.model.generate(**inputs, max_new_tokens=n_new, do_sample=False)
    handle.remove()
    return str(loaded.tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True)).strip()


def test_a_killed_run_goes_on_where_it_was_and_other_sweeps_share_its_cells(
    own_session: Session, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_store, "EVERY_S", 0.0)
    monkeypatch.setattr(run_store, "SHARE", 0)
    asked = options(controls=2, control_kinds=("random",))
    vectors = [own_session.vector("counting")]

    def kill(label: str, done: int, total: int | None) -> None:
        if label == "answers" and done > 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(own_session, world.loaded, counts(), vectors=vectors, options=asked, progress=kill)
    ((n_kept,),) = own_session.sql("select count(*) from answers").fetchall()
    ((killed_id, status),) = own_session.sql("select sweep_id, status from sweeps").fetchall()
    assert status == "running"
    asked_then = read_questions(own_session.cache.paths.sweep(killed_id))
    assert read_sweep(own_session, killed_id).clustered, "what was answered before the kill is counted by picture"
    again = evaluate(own_session, world.loaded, counts(), vectors=vectors, options=asked)
    assert again.n_reused == n_kept > 20
    assert {row[0] for row in own_session.sql("select status from sweeps").fetchall()} == {"complete"}
    assert asked_then == read_questions(own_session.cache.paths.sweep(again.sweep_id)) != ()
    third = evaluate(own_session, world.loaded, counts(), vectors=vectors, options=asked)
    assert (third.n_computed, third.n_reused) == (0, again.n_computed + again.n_reused)
    assert third.rows == again.rows
    assert (again.n_looks, third.n_looks) == (1, 1)  # the same table read twice is one look
    fewer = evaluate(
        own_session,
        world.loaded,
        counts(),
        vectors=vectors,
        options=replace(asked, controls=ControlOptions(count=1, kinds=("random",))),
    )
    assert fewer.n_computed == 0
    assert fewer.sweep_id != third.sweep_id
    assert fewer.n_looks == 2
    assert [look.subject for look in read_entries(own_session.cache.root)] == [third.sweep_id, fewer.sweep_id]


def test_broken_rows_are_in_the_table_as_failed(own_session: Session, world: World, tmp_path: Path) -> None:
    rows = [scenes.to_row(scenes.make_example(5, 2 * i, tasks=["Count"])) for i in range(16)]
    whole = rows[3]["image"]["bytes"]
    rows[3]["image"] = {"bytes": whole[: len(whole) // 2], "path": "torn.png"}  # its head is that of a picture
    rows[7]["image"] = {"bytes": b"not a picture", "path": "text.png"}
    rows[9] = rows[8]
    kept = [{name: row.get(name) for name in CV_BENCH.names} for row in rows]
    write_table(tmp_path / "set" / "test_2d.parquet", kept, CV_BENCH)
    bench = open_benchmark("scenes", tmp_path / "set", form="number")
    found = evaluate(
        own_session,
        world.loaded,
        bench,
        vectors=[own_session.vector("counting")],
        options=options(n=None, controls=1, control_kinds=("random",)),
    )
    assert {f.place.rpartition(":")[2] for f in found.failures} == {"4", "8", "10"}
    assert any("cannot be read" in f.error for f in found.failures)
    assert any("same question about the same picture" in f.error for f in found.failures)
    assert sum(found.n_samples.values()) == 16
    for row in found.rows:
        failed = [f for f in found.failures if f.split == row.split]
        assert row.comparison.n_failed == len(failed)
        assert row.comparison.n == found.n_samples[row.split] - len(failed)
    trials = own_session.sql("select sum(n), sum(n_failed), count(*) from trials where sweep_id = $s", s=found.sweep_id)
    assert trials.fetchall()[0] == (16 * 4, 3 * 4, 8)  # 4 cells on 2 splits
    errors = own_session.sql("select distinct error from answers where status = 'failed'").fetchall()
    assert len(errors) == 3
    assert own_session.sql("select status from sweeps").fetchall() == [("partly_failed",)]


def test_a_set_of_which_nothing_can_be_asked_is_an_error_that_names_the_first(world: World, tmp_path: Path) -> None:
    row = scenes.to_row(scenes.make_example(5, 0)) | {"image": {"bytes": b"no", "path": "a.png"}}
    write_table(tmp_path / "test_2d.parquet", [{n: row.get(n) for n in CV_BENCH.names}], CV_BENCH)
    with pytest.raises(PartlyFailedError, match="none of the 1 questions"):
        evaluate(
            world.session, world.loaded, open_benchmark("scenes", tmp_path), vectors=[], options=options(split="test")
        )


def test_a_planted_direction_moves_answers_beyond_twenty_random_ones(own_session: Session, world: World) -> None:
    """The direction in which the text tokens make "left" likelier, found on other questions than those it is tried on."""
    bench = open_benchmark("scenes", task="Relation", form="word", limit=160)
    bench = replace(bench, examples=tuple(e for e in bench.examples if "left" in e.labels.choices))
    others = ask(bench.part("test")[:16], world.loaded.bundle, split="test")
    batch = pad_batch([one.encoded for one in others if one.encoded], padding_side="left", pad_id=0)
    words = [world.loaded.tokenizer.encode(w, add_special_tokens=False)[0] for w in ("left", "right")]
    found = margin_gradients(world.loaded, batch, options=[words] * 16, layers=[0, 1], targets={"text": "text"})
    direction = found.values[:, :, 0, 0].sum(axis=1)
    planted = vector((direction / np.linalg.norm(direction, axis=1, keepdims=True)).astype(np.float32), name="planted")
    result = evaluate(
        own_session,
        world.loaded,
        bench,
        vectors=[planted],
        options=options(
            layers=(1,),
            alphas=(4.0,),
            n=24,
            controls=20,
            control_kinds=("random",),
            split="search",
            prompting="",
            allow_foreign=True,
        ),
    )
    assert result.rows[0].lineage == "unknown"
    lefts = Counter(
        cell for (_, cell, _), row in stored(own_session, result.sweep_id).items() if row["parsed"] == "left"
    )
    mine = lefts.pop(result.rows[0].cell.cell_id)
    control_cells = [control.cell.cell_id for control in result.rows[0].controls]
    assert len(set(control_cells)) == 20
    assert mine > max(lefts[cell] for cell in control_cells)


def test_asking_in_words_is_another_prompt_about_the_same_samples(world: World) -> None:
    rows = pick_rows(counts(), "search", n=2, orphans="test")
    example = rows[0]
    plain = PLAIN.put(example, world.loaded.bundle).text  # type: ignore[arg-type]
    told = attend_to("counting").put(example, world.loaded.bundle).text  # type: ignore[arg-type]
    assert plain.startswith("answer en Answer with the number only.\nHow many")
    assert told == plain.replace("answer en ", "answer en Pay attention to how many things there are. ")
    assert attend_to("counting").prompt_id != attend_to("entity").prompt_id != PLAIN.prompt_id


def test_a_larger_n_only_adds_questions() -> None:
    bench = counts(100)
    few, more = (pick_rows(bench, "search", n=n, orphans="test") for n in (5, 20))
    assert {r.place for r in few} < {r.place for r in more}
    assert pick_rows(bench, "search", n=None, orphans="test") == bench.part("search")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": ()}, "a layer, a strength and a target"),
        ({"alphas": (0.0,)}, "0 is the baseline"),
        ({"alphas": (float("nan"),)}, "finite"),
        ({"n": 0}, "at least 1"),
        ({"split": "test", "layers": (1, 2)}, "choose"),
    ],
)
def test_settings_that_make_no_evaluation_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        options(**changes)


def test_vectors_that_do_not_belong_to_the_model_are_refused(world: World) -> None:
    def refused(message: str, made: Any, asked: EvalOptions | None = None) -> None:
        with pytest.raises(UsageError, match=message):
            evaluate(world.session, world.loaded, counts(), vectors=made, options=asked or options())

    refused("7 wide and tiny is 96", [vector(np.ones((6, 7), np.float32))])
    refused("does not say its origin", [vector(np.ones((6, 96), np.float32))])
    refused("no layer 9", [world.session.vector("counting")], options(layers=(9,)))
    refused("two vectors are called", [world.session.vector("counting")] * 2)
    own = world.session.vector("counting")
    run_id = own.provenance["run_id"]
    other = replace(
        world.loaded,
        bundle=replace(
            world.loaded.bundle,
            spec=replace(world.loaded.spec, name="b", backbone="c", backbone_fingerprints=("0" * 64,)),
        ),
    )
    with pytest.raises(UsageError, match="does not descend from"):
        evaluate(world.session, other, counts(), vectors=[own], options=options())
    assert run_id
