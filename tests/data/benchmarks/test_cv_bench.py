"""CV-Bench from a folder of the hub's layout: what becomes a question, and what is named as failed."""

import contextlib
import hashlib
import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from steercache.core.errors import DamagedError, ManifestError, NotFoundError, UsageError
from steercache.core.ids import digest_bytes
from steercache.data import scenes
from steercache.data.benchmarks import open_benchmark, reworded, verified
from steercache.data.benchmarks.questions import INSTRUCTIONS
from tests.data.benchmarks.layouts import CV_BENCH, cv_row, png, write_table


def _folder(tmp_path: Path, n: int = 40, **changes: object) -> Path:
    flat = [cv_row(i, "Relation" if i % 4 else "Count") for i in range(n)]
    deep = [cv_row(1000 + i, "Depth" if i % 2 else "Distance") for i in range(n // 2)]
    for row in flat:
        row.update(changes)
    write_table(tmp_path / "test_2d.parquet", flat, CV_BENCH)
    write_table(tmp_path / "test_3d.parquet", deep, CV_BENCH)
    return tmp_path


def test_every_row_becomes_a_question_with_its_own_picture(tmp_path: Path) -> None:
    bench = open_benchmark("cv-bench", _folder(tmp_path))
    assert len(bench) == bench.n_rows == 60
    assert not bench.failures
    for i, example in enumerate(bench.examples[:40]):
        row = cv_row(i, "Relation" if i % 4 else "Count")
        assert example.text == f"Answer with the letter only.\n{row['prompt']}"
        assert example.labels.question == row["question"]
        assert list(example.labels.choices) == row["choices"]
        assert f"({example.labels.answer})" == row["answer"]
        assert example.labels.meta["task"] == row["task"]
        assert example.images[0].load() == png(i)
        assert example.place == f"test_2d.parquet:{i + 1}"


def test_pictures_are_read_in_any_order_and_again(tmp_path: Path) -> None:
    examples = open_benchmark("cv-bench-2d", _folder(tmp_path)).examples
    for i in (39, 0, 17, 16, 39, 15, 31, 0):
        assert examples[i].images[0].load() == png(i)


def test_the_published_split_equals_the_published_way_within_each_task(tmp_path: Path) -> None:
    rows = [cv_row(i, "Relation" if i % 3 else "Count") for i in range(600)]
    write_table(tmp_path / "test_2d.parquet", rows, CV_BENCH, group=100)
    bench = open_benchmark("cv-bench-2d", tmp_path, task="Relation", rule="paper")
    frame = pd.DataFrame([{"idx": r["idx"]} for r in rows if r["task"] == "Relation"])
    published = frame.sample(frac=1, random_state=42).reset_index(drop=True)
    assert {e.labels.meta["idx"] for e in bench.part("test")} == set(published.iloc[-150:]["idx"])
    assert {e.labels.meta["idx"] for e in bench.part("search")} == set(published.iloc[:-150]["idx"])


def test_a_broken_row_keeps_its_place_in_the_published_split(tmp_path: Path) -> None:
    rows = [cv_row(i, "Relation") for i in range(300)]
    write_table(tmp_path / "whole" / "test_2d.parquet", rows, CV_BENCH)
    rows[7]["image"] = {"bytes": b"not a picture", "path": "x.png"}
    rows[9]["answer"] = None
    write_table(tmp_path / "broken" / "test_2d.parquet", rows, CV_BENCH)
    whole = open_benchmark("cv-bench-2d", tmp_path / "whole", rule="paper")
    broken = open_benchmark("cv-bench-2d", tmp_path / "broken", rule="paper")
    sides = {e.labels.meta["idx"]: e.labels.split for e in whole.examples}
    assert {e.labels.meta["idx"]: e.labels.split for e in broken.examples}.items() <= sides.items()
    assert [f.split for f in broken.failures] == [sides[7], sides[9]]


def test_questions_about_one_photograph_stay_together(tmp_path: Path) -> None:
    bench = open_benchmark("cv-bench-2d", _folder(tmp_path))
    assert len({e.labels.group_id for e in bench.examples}) == 20
    sides: dict[str | None, set[str | None]] = {}
    for example in bench.examples:
        sides.setdefault(example.labels.group_id, set()).add(example.labels.split)
    assert all(len(s) == 1 for s in sides.values())


def test_a_photograph_is_on_one_side_in_every_task_and_however_the_set_is_opened(tmp_path: Path) -> None:
    rows = [cv_row(i, "Relation" if i % 4 else "Count", source_filename=f"{i % 150}.jpg") for i in range(600)]
    write_table(tmp_path / "test_2d.parquet", rows, CV_BENCH)
    whole = open_benchmark("cv-bench-2d", tmp_path)
    sides: dict[str | None, set[str | None]] = {}
    for example in whole.examples:
        sides.setdefault(example.labels.group_id, set()).add(example.labels.split)
    assert {len(s) for s in sides.values()} == {1}
    split = {e.place: e.labels.split for e in whole.examples}
    for task in ("Relation", "Count"):
        for example in open_benchmark("cv-bench-2d", tmp_path, task=task).examples:
            assert example.labels.split == split[example.place]


def test_the_grouped_split_of_the_drawn_sets_is_the_one_they_had_before() -> None:
    """Their tasks share no picture, so nothing moved when the split came to be drawn over the whole set."""
    bench = open_benchmark("scenes", task="Relation")
    names = [(e.place, e.labels.split) for e in bench.examples]
    assert hashlib.sha256(json.dumps(names).encode()).hexdigest().startswith("a8caf5e315c8")


def test_without_a_source_the_picture_itself_is_the_group(tmp_path: Path) -> None:
    same = {"bytes": png(3), "path": "a.png"}
    rows = [cv_row(i, "Relation", source_filename=None, image=same) for i in range(6)]
    write_table(tmp_path / "test_2d.parquet", rows, CV_BENCH)
    bench = open_benchmark("cv-bench-2d", tmp_path)
    assert {e.labels.group_id for e in bench.examples} == {digest_bytes(png(3))}


def test_every_broken_row_is_named_and_counted(tmp_path: Path) -> None:
    wrong = [
        cv_row(0, "Relation", image=None),
        cv_row(1, "Relation", image={"bytes": b"", "path": "b.png"}),
        cv_row(2, "Relation", image={"bytes": b"<html>", "path": "c.png"}),
        cv_row(3, "Relation", image={"bytes": None, "path": "../outside.png"}),
        cv_row(4, "Relation", image={"bytes": None, "path": "img/absent.png"}),
        cv_row(5, "Relation", answer="(E)"),
        cv_row(6, "Relation", answer="left"),
        cv_row(7, "Relation", choices=None),
        cv_row(8, "Relation", prompt=""),
        cv_row(9, "Relation") | {"task": None},
        cv_row(10, "Relation", choices=["left", None]),
        cv_row(11, "Relation", image={"bytes": None, "path": None}),
    ]
    (tmp_path.parent / "outside.png").write_bytes(png(1))
    write_table(tmp_path / "test_2d.parquet", [*wrong, cv_row(12, "Relation")], CV_BENCH)
    bench = open_benchmark("cv-bench-2d", tmp_path)
    assert [e.labels.meta["idx"] for e in bench.examples] == [12]
    assert [(f.place, f.kind) for f in bench.failures] == [
        ("test_2d.parquet:1", "missing_image"),
        ("test_2d.parquet:2", "broken_image"),
        ("test_2d.parquet:3", "broken_image"),
        ("test_2d.parquet:4", "outside_folder"),
        ("test_2d.parquet:5", "missing_image"),
        ("test_2d.parquet:6", "bad_answer"),
        ("test_2d.parquet:7", "bad_answer"),
        ("test_2d.parquet:8", "missing_value"),
        ("test_2d.parquet:9", "missing_value"),
        ("test_2d.parquet:10", "missing_value"),
        ("test_2d.parquet:11", "bad_answer"),
        ("test_2d.parquet:12", "missing_image"),
    ]
    assert bench.n_rows == 13


def test_a_picture_by_path_is_read_from_under_the_folder(tmp_path: Path) -> None:
    (tmp_path / "img").mkdir()
    (tmp_path / "img" / "a.jpg").write_bytes(png(5, kind="JPEG"))
    rows = [cv_row(0, "Relation", image={"bytes": None, "path": "img/a.jpg"})]
    write_table(tmp_path / "test_2d.parquet", rows, CV_BENCH)
    (example,) = open_benchmark("cv-bench-2d", tmp_path).examples
    assert example.images[0].load() == png(5, kind="JPEG")
    (tmp_path / "img" / "a.jpg").unlink()
    with pytest.raises(DamagedError, match=r"img/a\.jpg"):
        example.images[0].load()


def test_a_link_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(png(1))
    home = tmp_path / "set"
    home.mkdir()
    (home / "link.png").symlink_to(tmp_path / "secret.png")
    rows = [cv_row(0, "Relation", image={"bytes": None, "path": "link.png"})]
    write_table(home / "test_2d.parquet", rows, CV_BENCH)
    (failure,) = open_benchmark("cv-bench-2d", home).failures
    assert failure.kind == "outside_folder"


def test_missing_and_mistyped_columns_are_all_named(tmp_path: Path) -> None:
    fields = [f for f in CV_BENCH if f.name not in ("prompt", "choices")]
    fields = [pa.field("image", pa.binary()) if f.name == "image" else f for f in fields]
    fields = [pa.field("idx", pa.string()) if f.name == "idx" else f for f in fields]
    row = cv_row(0, "Relation", image=png(0)) | {"idx": "0"}
    write_table(tmp_path / "test_2d.parquet", [row], pa.schema(fields))
    with pytest.raises(ManifestError) as caught:
        open_benchmark("cv-bench-2d", tmp_path)
    assert {(p.loc, p.kind) for p in caught.value.problems} == {
        ("prompt", "missing_column"),
        ("choices", "missing_column"),
        ("image", "wrong_type"),
        ("idx", "wrong_type"),
    }
    assert caught.value.place == "test_2d.parquet"


def test_a_file_that_is_cut_short_is_damaged_not_empty(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    whole = (folder / "test_2d.parquet").read_bytes()
    (folder / "test_2d.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DamagedError, match=r"test_2d\.parquet"):
        open_benchmark("cv-bench-2d", folder)


def test_flipped_bits_in_a_parquet_file_never_give_a_traceback_of_another_kind(tmp_path: Path) -> None:
    folder = _folder(tmp_path, n=8)
    whole = (folder / "test_2d.parquet").read_bytes()
    outcomes = []
    for at in range(4, len(whole) - 4, 97):
        flipped = bytearray(whole)
        flipped[at] ^= 0xFF
        (folder / "test_2d.parquet").write_bytes(flipped)
        outcomes.append(_open_or_error(folder))
    assert set(outcomes) == {"opened", "named"}


def _open_or_error(folder: Path) -> str:
    with contextlib.suppress(DamagedError, ManifestError, NotFoundError):
        bench = open_benchmark("cv-bench-2d", folder)
        assert bench.n_rows == len(bench.examples) + len(bench.failures)
        return "opened"
    return "named"


def test_counts_can_be_asked_for_the_bare_number(tmp_path: Path) -> None:
    bench = open_benchmark("cv-bench-2d", _folder(tmp_path), task="Count", form="number")
    example = bench.examples[0]
    assert example.text == "Answer with the number only.\nQuestion 0 about count?"
    assert (example.labels.answer, example.labels.choices, example.labels.meta["kind"]) == ("2", (), "count")


def test_another_instruction_stands_before_the_same_prompt(tmp_path: Path) -> None:
    bench = open_benchmark("cv-bench-2d", _folder(tmp_path))
    again = reworded(bench, "Think about space.")
    assert again.examples[1].text == f"Think about space.\n{bench.examples[1].labels.meta['prompt']}"
    assert again.examples[1].labels == bench.examples[1].labels


def test_an_unknown_name_task_or_a_missing_folder_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cv-bench-2d"):
        open_benchmark("cvbench", tmp_path)
    with pytest.raises(UsageError, match="Relation, Count"):
        open_benchmark("cv-bench-2d", tmp_path, task="Depth")
    with pytest.raises(NotFoundError, match=r"test_2d\.parquet"):
        open_benchmark("cv-bench-2d", tmp_path)
    with pytest.raises(NotFoundError, match="no such folder"):
        open_benchmark("cv-bench-2d", tmp_path / "nowhere")
    with pytest.raises(UsageError, match="limit"):
        open_benchmark("cv-bench-2d", tmp_path, rule="paper", limit=3)


def test_a_limit_reads_only_the_first_rows(tmp_path: Path) -> None:
    bench = open_benchmark("cv-bench", _folder(tmp_path), limit=45)
    assert bench.n_rows == 45
    assert bench.examples[-1].place == "test_3d.parquet:5"


def test_scenes_written_as_parquet_are_read_by_the_same_adapter(tmp_path: Path) -> None:
    made = list(scenes.iter_examples(5, 24))
    scenes.write_parquet(made, tmp_path / "test_2d.parquet")
    bench = open_benchmark("scenes", tmp_path)
    assert not bench.failures
    for example, scene in zip(bench.examples, made, strict=True):
        assert example.images[0].load() == scene.png()
        assert example.labels.choices == scene.question.choices
        assert f"({example.labels.answer})" == scene.question.answer
    by_picture = {e.labels.group_id for e in bench.examples}
    assert len(by_picture) == len({s.group_id for s in made})


def test_instructions_are_the_words_the_shipped_models_were_trained_on() -> None:
    words = {"choice": "letter", "count": "number", "text": "word"}
    assert {k: scenes.INSTRUCTIONS[v] for k, v in words.items()} == dict(INSTRUCTIONS)  # type: ignore[index]


def test_a_picture_cut_in_the_middle_is_found_by_decoding_it(tmp_path: Path) -> None:
    rows = [cv_row(0, "Relation"), cv_row(1, "Relation", image={"bytes": png(1)[:-36], "path": "cut.png"})]
    write_table(tmp_path / "test_2d.parquet", rows, CV_BENCH)
    bench = open_benchmark("cv-bench-2d", tmp_path)
    assert len(bench) == 2
    checked = verified(bench)
    assert [e.labels.meta["idx"] for e in checked.examples] == [0]
    assert [(f.place, f.kind, f.task, f.split) for f in checked.failures] == [
        ("test_2d.parquet:2", "broken_image", "Relation", bench.examples[1].labels.split)
    ]
    assert checked.n_rows == 2
