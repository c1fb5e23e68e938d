"""A gradient run is a run of the cache: the same bytes, tables and tools as any other has; and what is stale is refused."""

import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from steercache.benchmarks.task import Wording
from steercache.cache.compact import compact_run
from steercache.cache.entries import all_sweep_files, all_vector_rows
from steercache.cache.handle import open_cache
from steercache.cache.rebuild import rebuild_index
from steercache.cache.remove import collect, remove_damaged_shards
from steercache.cache.verify import verify_root
from steercache.cells.model import find_model
from steercache.core.errors import NotFoundError, UsageError
from steercache.index.files import over_files
from steercache.models.rope import any_length
from steercache.queries.session import Session, open_session
from steercache.screening.gradient_plan import find_run, named_run, parent_of, stale_in
from steercache.screening.gradient_run import record_gradients
from steercache.screening.gradient_store import StoredGradients, open_gradients
from steercache.steering.gradient import margin_gradients
from steercache.trace.batches import pad_batch, plan_batches
from tests.cache.contents import files_of, tables_of
from tests.cache.test_crash import duration_of, run_and_kill
from tests.screening.small_gradients import LAYERS, copied_root, many_shards, questions, small_gradients, small_plan
from tests.world import World

KILLS = [pytest.param(1, id="once"), pytest.param(15, id="many", marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def recorded(world: World, tmp_path_factory: pytest.TempPathFactory) -> StoredGradients:
    """In a root of its own."""
    root = copied_root(world, tmp_path_factory.mktemp("gradients"))
    with pytest.MonkeyPatch.context() as patch:
        many_shards(patch)
        return small_gradients(open_session(root), world.loaded)


def session_of(gradients: StoredGradients) -> Session:
    return open_session(gradients.source._paths.folder.parent.parent)


def test_stored_gradients_are_those_of_the_same_batches_bit_for_bit(world: World, recorded: StoredGradients) -> None:
    assert len(recorded.document.shards) > 1
    samples = small_plan(world.loaded.bundle).samples
    for shard in recorded.document.shards:
        own = samples[shard.first_sample : shard.first_sample + shard.n_samples]
        encoded = [s.one.encoded for s in own]
        for members in plan_batches([e.n_tokens for e in encoded if e], tokens_per_batch=200, rule=any_length):
            batch = pad_batch([e for i in members if (e := encoded[i])], padding_side="left", pad_id=0)
            found = margin_gradients(
                world.loaded,
                batch,
                [own[i].options for i in members],
                layers=LAYERS,
                targets={"image": "image", "text": "text"},
            )
            at = [shard.first_sample + i for i in members]
            for t, target in enumerate(("image", "text")):
                for i, layer in enumerate(LAYERS):
                    np.testing.assert_array_equal(recorded.gather(target, layer)[at], found.values[i, :, t])
                np.testing.assert_array_equal(recorded.row_norms[target][:, at], found.row_norms[:, :, t])
            np.testing.assert_array_equal(recorded.margins[at], found.margins)


def test_rows_say_what_they_are_and_join_samples_in_sql(world: World, recorded: StoredGradients) -> None:
    session = session_of(recorded)
    every = "SELECT * FROM gradients ORDER BY row_idx"
    rows = session.sql(every).to_arrow_table().to_pylist()
    options = [(t, k) for t in ("image", "text") for k in range(5)]
    assert [(r["target"], r["option_idx"]) for r in rows] == options * 14
    assert [r["piece"] for r in rows[:5]] == ["1", "2", "3", "4", "5"]
    assert {r["n_steered"] for r in rows if r["target"] == "image"} == {25}
    assert {r["split"] for r in rows} == {"search"}
    sql = "SELECT activation(run_id, 'margin_grad', 3, row_idx) AS g FROM gradients WHERE target = 'text' ORDER BY row_idx"
    values = np.array([row[0] for row in session.sql(sql).fetchall()], dtype=np.float32).reshape(14, 5, -1)
    np.testing.assert_array_equal(values, recorded.gather("text", 3))
    (run,) = session.sql(
        "SELECT row_kind, dtype, complete, replayable FROM runs WHERE row_kind = 'sample_target'"
    ).fetchall()
    assert run == ("sample_target", "float32", True, False)
    with pytest.raises(NotFoundError, match="multimodal"):  # gradients are never taken for activations
        session.query("image_rows")


def test_a_question_takes_a_row_for_each_target_and_option_however_many_tokens_it_has(
    world: World, recorded: StoredGradients
) -> None:
    plan, width = small_plan(world.loaded.bundle), world.loaded.spec.hidden_size
    assert plan.n_bytes == 14 * 2 * 5 * len(LAYERS) * width * 4
    long = max(s.one.encoded.n_tokens for s in plan.samples if s.one.encoded is not None)
    assert long > 2 * 5  # so that its activations, at these layers, take more than its gradients
    assert len({row for rows in recorded.rows.values() for row in rows.reshape(-1).tolist()}) == 14 * 2 * 5


def test_row_norms_are_medians_over_the_steered_tokens_but_the_first(world: World, recorded: StoredGradients) -> None:
    one = small_plan(world.loaded.bundle).samples[0].one
    assert one.encoded is not None
    hidden: dict[int, Any] = {}
    block = world.loaded.model.model.language_model.layers[3]
    handle = block.register_forward_hook(
        lambda m, a, out: hidden.update({3: out[0] if isinstance(out, tuple) else out})
    )
    batch = pad_batch([one.encoded], padding_side="left", pad_id=0)
    margin_gradients(world.loaded, batch, [[5, 6]], layers=[4], targets={"all": "all"})
    handle.remove()
    is_image = np.asarray(one.encoded.input_ids) == world.loaded.config.image_token_id
    is_image[0] = False
    norms = hidden[3][0].detach().norm(dim=-1).numpy()[is_image]
    assert recorded.row_norms["image"][LAYERS.index(3), 0] == pytest.approx(np.median(norms), rel=1e-4)


def test_verify_rebuild_compact_and_gc_work_on_it(recorded: StoredGradients, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(session_of(recorded).cache.root, root)
    cache = open_cache(root)
    assert [f for checked in verify_root(cache) for f in checked.findings] == []
    before = tables_of(root)
    rebuild_index(cache)
    assert tables_of(root) == before
    read = "SELECT sample_id, target, option_idx, margin, row_norms FROM gradients ORDER BY row_idx"
    con = over_files(list(cache.run_files()), all_vector_rows(cache.paths), list(all_sweep_files(cache.paths)))
    assert con.execute(read).fetchall() == open_session(root).sql(read).fetchall()
    con.close()
    compact_run(cache, recorded.document.run_id, codec="blosc")
    collect(cache)
    assert [f for checked in verify_root(cache) for f in checked.findings] == []
    rows = recorded.rows["image"].reshape(-1)
    found = cache.source(recorded.document.run_id).gather("margin_grad", 4, rows)
    np.testing.assert_array_equal(found, recorded.gather("image", 4).reshape(found.shape))


def test_a_damaged_shard_is_recorded_again_with_the_same_bytes(
    world: World, recorded: StoredGradients, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many_shards(monkeypatch)
    root, run_id = tmp_path / "root", recorded.document.run_id
    shutil.copytree(session_of(recorded).cache.root, root)
    cache, wanted = open_cache(root), files_of(root)
    file = root / "runs" / run_id / "g0001" / "margin_grad" / "c.0.1.0"
    file.write_bytes(file.read_bytes()[:-100])
    assert remove_damaged_shards(cache, run_id) == [1]
    plan = small_plan(world.loaded.bundle)
    assert record_gradients(cache, world.loaded, plan).n_shards == 1
    assert files_of(root) == wanted
    assert record_gradients(cache, world.loaded, plan).n_shards == 0


@pytest.mark.parametrize("n_kills", KILLS)
def test_a_recording_killed_at_random_moments_and_resumed_equals_an_undisturbed_one(
    n_kills: int, world: World, recorded: StoredGradients, own_session: Session, tmp_path: Path, monkeypatch: Any
) -> None:
    many_shards(monkeypatch)
    undisturbed = session_of(recorded).cache.root

    def record(root: Path) -> None:
        record_gradients(open_cache(root), world.loaded, small_plan(world.loaded.bundle))

    def fresh(name: str) -> Path:
        shutil.copytree(own_session.cache.root, tmp_path / name)
        return tmp_path / name

    timed = fresh("timed")
    whole = duration_of(lambda: record(timed))
    moments, n_killed, round_no = random.Random(n_kills), 0, 0
    while n_killed < n_kills:
        root = fresh(f"root{round_no}")
        round_no += 1
        while n_killed < n_kills and run_and_kill(lambda root=root: record(root), moments.uniform(0.2, 1.0) * whole):
            n_killed += 1
        record(root)
        collect(open_cache(root))
        assert files_of(root) == files_of(undisturbed)
        assert tables_of(root) == tables_of(undisturbed)


def other_weights(folder: Path, root: Path) -> Any:
    """The tiny model with one weight of one block changed by a hair."""
    find_model("tiny", root)
    shutil.copytree(root / "models" / "zoo-tiny", folder)
    (file,) = folder.glob("*.safetensors")
    tensors = load_file(file)
    name = next(n for n in sorted(tensors) if "layers.5" in n and n.endswith("down_proj.weight"))
    tensors[name] = tensors[name].clone()
    tensors[name][0, 0] += 1e-3
    save_file(tensors, file, metadata={"format": "pt"})
    return find_model(str(folder), root).bundle(root, dtype="float32")


def test_a_run_of_other_weights_prompts_options_or_wording_is_refused(
    world: World, recorded: StoredGradients, tmp_path: Path
) -> None:
    session, bundle = session_of(recorded), world.loaded.bundle
    cache, name = session.cache, recorded.document.name
    same = small_plan(bundle)
    assert named_run(cache, name, same).run_id == recorded.document.run_id
    changed = other_weights(tmp_path / "other", cache.root)
    assert changed.spec.fingerprint != bundle.spec.fingerprint
    stale = {
        "other weights": small_plan(changed),
        "other prompts": small_plan(bundle, questions(bundle, form="letter")),
        "other answer options": small_plan(bundle, questions(bundle, form="letter")),
        "another wording": small_plan(bundle, wording=Wording(attend="Look.")),
        "no layer 5": small_plan(bundle, layers=(1, 5)),
        "no target both": small_plan(bundle, targets=("both",)),
    }
    for words, plan in stale.items():
        assert find_run(cache, plan) is None, words
        with pytest.raises(UsageError, match=words) as raised:
            named_run(cache, name, plan)
        assert raised.value.hint
    with pytest.raises(UsageError, match="holds no gradients"):
        named_run(cache, "small", same)


def test_a_run_with_more_layers_and_targets_serves_too(world: World, recorded: StoredGradients) -> None:
    cache = session_of(recorded).cache
    less = small_plan(world.loaded.bundle, layers=(3,), targets=("text",))
    found = find_run(cache, less)
    assert found is not None
    assert found.run_id == recorded.document.run_id != less.document.run_id
    gradients = open_gradients(cache, found.run_id, less)
    np.testing.assert_array_equal(gradients.gather("text", 3), recorded.gather("text", 3))


def test_a_mended_answer_makes_no_other_run_and_moves_only_which_option_is_right(
    world: World, recorded: StoredGradients, monkeypatch: pytest.MonkeyPatch
) -> None:
    many_shards(monkeypatch)
    first, *others = questions(world.loaded.bundle)
    assert first.labels.answer is not None
    other = "1" if first.labels.answer != "1" else "2"
    plan = small_plan(world.loaded.bundle, (replace(first, labels=replace(first.labels, answer=other)), *others))
    assert plan.document.run_id == small_plan(world.loaded.bundle).document.run_id == recorded.document.run_id
    mended = open_gradients(session_of(recorded).cache, plan.document.run_id, plan)
    assert mended.right[0] == int(other) - 1
    assert mended.right[1:].tolist() == recorded.right[1:].tolist()


def test_questions_without_options_to_tell_apart_are_left_out_and_counted(world: World) -> None:
    asked = questions(world.loaded.bundle)
    failed = replace(asked[0], encoded=None, error="broken picture")
    alone = replace(asked[1], labels=replace(asked[1].labels, answer="7"))  # no count of the set
    plan = small_plan(world.loaded.bundle, (failed, alone, *asked[2:]))
    assert [one.place for one in plan.left_out] == [failed.place, alone.place]
    assert len(plan.samples) == 12
    with pytest.raises(UsageError, match="none of the 1 questions of scenes can be screened: broken picture"):
        small_plan(world.loaded.bundle, (failed,))
    with pytest.raises(UsageError, match="no layer 6"):
        small_plan(world.loaded.bundle, layers=(6,))


def test_other_numerics_are_refused_while_a_run_is_not_complete(
    world: World, recorded: StoredGradients, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many_shards(monkeypatch)
    root = tmp_path / "root"
    shutil.copytree(session_of(recorded).cache.root, root)
    cache = open_cache(root)
    cache.run_paths(recorded.document.run_id).shard("g0001", 0).unlink()
    plan = small_plan(world.loaded.bundle, tokens_per_batch=400)
    assert plan.document.run_id == recorded.document.run_id
    with pytest.raises(UsageError, match="tokens_per_batch was 200, is 400"):
        record_gradients(cache, world.loaded, plan)
    assert record_gradients(cache, world.loaded, plan, force=True).n_shards == 1


def test_the_trace_of_the_same_questions_is_its_parent(world: World, recorded: StoredGradients) -> None:
    cache, plan = session_of(recorded).cache, small_plan(world.loaded.bundle)
    assert parent_of(cache, plan) is None
    assert stale_in(recorded.document, plan) == []
    with cache.index.write() as con:  # a trace as far as lineage is concerned: the same weights, the same samples
        con.execute(
            "INSERT INTO runs BY NAME SELECT 'parent' AS run_id, model_fingerprint, true AS complete, 'token' AS"
            " row_kind FROM runs WHERE run_id = $run",
            {"run": recorded.document.run_id},
        )
        con.execute(
            "INSERT INTO samples BY NAME SELECT * REPLACE ('parent' AS run_id) FROM samples WHERE run_id = $run",
            {"run": recorded.document.run_id},
        )
        seen = con.execute("SELECT count(*) FROM seen").fetchall()
    assert seen
    assert parent_of(cache, plan) == "parent"
    with cache.index.write() as con:
        con.execute("DELETE FROM samples WHERE run_id = 'parent' AND sample_idx = 3")
    assert parent_of(cache, plan) is None
    rebuild_index(cache)
