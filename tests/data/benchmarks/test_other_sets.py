"""What'sUp, BLINK, CLEVR counting, CLEVR and Super-CLEVR from folders of their published layouts."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.model_selection import train_test_split

from steercache.core.errors import ManifestError, NotFoundError, UsageError
from steercache.data.benchmarks import open_benchmark
from tests.data.benchmarks.layouts import (
    ARRANGEMENTS,
    BLINK,
    CLEVR_COUNT,
    WHATSUP,
    blink_row,
    png,
    stored,
    whatsup_captions,
    write_json,
    write_table,
)

CLEVR_LAYOUTS = [
    ("clevr", "questions/CLEVR_val_questions.json", "images/val"),
    ("super-clevr", "superCLEVR_questions_30k.json", "images"),
]
NAMES = {"a": "controlled_images", "b": "controlled_clevr"}


def _upstream(folder: Path, variant: str, n_sets: int = 6) -> Path:
    """Upstream's `data` folder: one JSON beside a folder of pictures, paths that begin with "data/"."""
    rows = []
    (folder / NAMES[variant]).mkdir(parents=True)
    for i in range(n_sets * 4):
        name = f"{NAMES[variant]}/thing{i // 4}_{i % 4}.jpeg"
        (folder / name).write_bytes(png(i, kind="JPEG"))
        rows.append({"image_path": f"data/{name}", "caption_options": whatsup_captions(variant, i // 4, i % 4)})
    write_json(folder / f"{NAMES[variant]}_dataset.json", rows)
    return folder


def _hub_copy(folder: Path, variant: str, n_sets: int = 6) -> Path:
    rows = [
        {
            "image_options": {"bytes": png(i, kind="JPEG"), "path": None},
            "caption_options": whatsup_captions(variant, i // 4, i % 4),
            "TARGET": 0,
        }
        for i in range(n_sets * 4)
    ]
    split = f"Controlled_Images_{variant.upper()}"
    write_table(folder / "data" / f"{split}-00000-of-00001.parquet", rows, WHATSUP)
    return folder


@pytest.mark.parametrize("variant", ["a", "b"])
def test_upstream_and_hub_copy_of_whatsup_ask_the_same_questions(tmp_path: Path, variant: str) -> None:
    one = open_benchmark(f"whatsup-{variant}", _upstream(tmp_path / "up", variant), rule="paper")
    two = open_benchmark(f"whatsup-{variant}", _hub_copy(tmp_path / "hub", variant), rule="paper")
    assert len(one) == len(two) == 24
    for a, b in zip(one.examples, two.examples, strict=True):
        assert (a.text, a.labels.choices, a.labels.answer, a.labels.split) == (
            b.text,
            b.labels.choices,
            b.labels.answer,
            b.labels.split,
        )
        assert a.labels.meta == b.labels.meta
        assert a.images[0].load() == b.images[0].load()


@pytest.mark.parametrize("variant", ["a", "b"])
def test_options_are_turned_by_the_row_number_and_the_answer_follows(tmp_path: Path, variant: str) -> None:
    bench = open_benchmark(f"whatsup-{variant}", _upstream(tmp_path, variant))
    letters = []
    for i, example in enumerate(bench.examples):
        captions = whatsup_captions(variant, i // 4, i % 4)
        assert list(example.labels.choices) == captions[i % 4 :] + captions[: i % 4]
        assert example.labels.choices["ABCD".index(str(example.labels.answer))] == captions[0]
        letters.append(example.labels.answer)
    assert letters[:8] == ["A", "D", "C", "B"] * 2


@pytest.mark.parametrize("variant", ["a", "b"])
def test_set_and_relation_are_read_off_the_captions(tmp_path: Path, variant: str) -> None:
    bench = open_benchmark(f"whatsup-{variant}", _upstream(tmp_path, variant))
    metas = [e.labels.meta for e in bench.examples]
    assert [m["relation"] for m in metas] == list(ARRANGEMENTS[variant]) * 6
    assert [m["set_id"] for m in metas] == [f"A thing {k} … a table {k}" for k in range(6) for _ in range(4)]


def test_the_published_whatsup_split_is_scikit_learns(tmp_path: Path) -> None:
    bench = open_benchmark("whatsup-a", _hub_copy(tmp_path, "a", n_sets=103), rule="paper")
    _, search = train_test_split(list(range(412)), test_size=100, random_state=42)
    assert {e.labels.meta["row"] for e in bench.part("search")} == set(search)


@pytest.mark.parametrize("variant", ["a", "b"])
def test_the_grouped_split_cuts_no_set_of_whatsup_and_is_the_same_in_both_layouts(tmp_path: Path, variant: str) -> None:
    sides: list[dict[str, set[str | None]]] = []
    for folder in (_upstream(tmp_path / "up", variant, n_sets=30), _hub_copy(tmp_path / "hub", variant, n_sets=30)):
        bench = open_benchmark(f"whatsup-{variant}", folder)
        assert (len(bench.part("search")), len(bench.part("test"))) == (60, 60)
        of_set: dict[str, set[str | None]] = {}
        for example in bench.examples:
            of_set.setdefault(example.labels.meta["set_id"], set()).add(example.labels.split)
        assert len({e.labels.group_id for e in bench.examples}) == len(of_set) == 30
        assert all(len(found) == 1 for found in of_set.values())
        sides.append(of_set)
    assert sides[0] == sides[1]


def test_captions_of_whatsup_that_share_no_word_are_grouped_by_picture(tmp_path: Path) -> None:
    captions = ["a b", "c d", "e f", "g h"]
    rows = [{"image_options": stored(k), "caption_options": captions, "TARGET": 0} for k in range(3)]
    write_table(tmp_path / "data" / "Controlled_Images_A-00000-of-00001.parquet", rows, WHATSUP)
    assert len({e.labels.group_id for e in open_benchmark("whatsup-a", tmp_path).examples}) == 3


def test_whatsup_rows_that_are_wrong_are_named(tmp_path: Path) -> None:
    folder = _upstream(tmp_path, "a", n_sets=1)
    captions = whatsup_captions("a", 0, 0)
    name = "data/controlled_images/thing0_0.jpeg"
    write_json(
        folder / "controlled_images_dataset.json",
        [
            {"image_path": name, "caption_options": captions},
            {"image_path": "data/controlled_images/absent.jpeg", "caption_options": captions},
            {"image_path": "/etc/passwd", "caption_options": captions},
            {"image_path": "data/../../x.jpeg", "caption_options": captions},
            {"image_path": name, "caption_options": captions[:3]},
            {"caption_options": captions},
            {"image_path": name},
            "text",
        ],
    )
    bench = open_benchmark("whatsup-a", folder)
    assert len(bench) == 1
    assert [f.kind for f in bench.failures] == [
        "missing_image",
        "outside_folder",
        "outside_folder",
        "missing_value",
        "missing_value",
        "missing_value",
        "missing_value",
    ]


def test_a_target_that_is_no_option_is_named(tmp_path: Path) -> None:
    captions = whatsup_captions("a", 0, 0)
    rows = [{"image_options": stored(1), "caption_options": captions, "TARGET": t} for t in (2, 4, None, -1)]
    write_table(tmp_path / "data" / "Controlled_Images_A-00000-of-00001.parquet", rows, WHATSUP)
    bench = open_benchmark("whatsup-a", tmp_path)
    assert bench.examples[0].labels.choices[2] == captions[2]
    assert bench.examples[0].labels.answer == "C"
    assert [f.kind for f in bench.failures] == ["bad_answer"] * 3


def test_an_empty_folder_names_both_layouts_of_whatsup(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"controlled_images_dataset\.json.*Controlled_Images_A"):
        open_benchmark("whatsup-a", tmp_path)


def test_blink_keeps_the_pictures_there_are_and_refuses_broken_ones(tmp_path: Path) -> None:
    rows = [
        blink_row(0),
        blink_row(1, n_images=3),
        blink_row(2, answer="hidden"),
        blink_row(3, image_1=None),
        blink_row(4, n_images=2, image_2={"bytes": b"oops", "path": None}),
        blink_row(5, answer="(C)"),
        blink_row(6, choices=[]),
    ]
    write_table(tmp_path / "Spatial_Relation" / "val-00000-of-00001.parquet", rows, BLINK)
    bench = open_benchmark("blink", tmp_path)
    assert [[i.load() for i in e.images] for e in bench.examples] == [[png(1)], [png(11), png(12), png(13)]]
    assert [e.labels.answer for e in bench.examples] == ["A", "B"]
    assert bench.examples[0].text.startswith("Answer with the letter only.\nIs thing 0 under the chair?")
    assert [f.kind for f in bench.failures] == [
        "hidden_answer",
        "missing_image",
        "broken_image",
        "bad_answer",
        "missing_value",
    ]


def test_blink_asks_nothing_without_a_picture_that_stands_before_another(tmp_path: Path) -> None:
    rows = [
        blink_row(0, n_images=3, image_2=None),
        blink_row(1, n_images=4, image_2=None, image_3=None),
        blink_row(2, n_images=2, image_1=None),
        blink_row(3, n_images=3, image_3=None),
    ]
    write_table(tmp_path / "Spatial_Relation" / "val-00000-of-00001.parquet", rows, BLINK)
    bench = open_benchmark("blink", tmp_path)
    assert [[i.load() for i in e.images] for e in bench.examples] == [[png(31), png(32)]]
    assert [(f.kind, f.message) for f in bench.failures] == [
        ("missing_image", "image_2 is missing, and image_3 is there"),
        ("missing_image", "image_2 is missing, and image_4 is there"),
        ("missing_image", "image_1 is missing, and image_2 is there"),
    ]


def test_blink_subtasks_are_folders_and_unknown_ones_are_refused(tmp_path: Path) -> None:
    rows = [blink_row(i, sub_task="Counting") for i in range(3)]
    write_table(tmp_path / "Counting" / "val-00000-of-00001.parquet", rows, BLINK)
    assert len(open_benchmark("blink", tmp_path, task="Counting")) == 3
    with pytest.raises(NotFoundError, match="Spatial_Relation"):
        open_benchmark("blink", tmp_path)
    with pytest.raises(UsageError, match="Jigsaw"):
        open_benchmark("blink", tmp_path, task="Puzzle")


def test_blink_without_its_columns_lists_all_that_are_missing(tmp_path: Path) -> None:
    schema = pa.schema([f for f in BLINK if f.name not in ("image_3", "explanation", "prompt")])
    write_table(tmp_path / "Spatial_Relation" / "val-00000-of-00001.parquet", [blink_row(0)], schema)
    with pytest.raises(ManifestError) as caught:
        open_benchmark("blink", tmp_path)
    assert {p.loc for p in caught.value.problems} == {"image_3", "explanation", "prompt"}


@pytest.mark.parametrize(
    ("column", "kind", "value", "wanted"),
    [
        ("choices", pa.string(), "['yes', 'no']", "list of texts"),
        ("choices", pa.list_(pa.int64()), [1, 2], "list of texts"),
        ("choices", pa.struct([("text", pa.string())]), {"text": "yes"}, "list of texts"),
        ("answer", pa.int64(), 0, "text"),
        ("answer", pa.list_(pa.string()), ["(A)"], "text"),
        ("question", pa.binary(), b"Is it?", "text"),
        ("image_1", pa.binary(), png(1), "picture {bytes, path}"),
        ("image_2", pa.string(), "a.png", "picture {bytes, path}"),
        ("image_1", pa.list_(BLINK.field("image_1").type), [stored(1)], "picture {bytes, path}"),
    ],
)
def test_a_blink_column_of_another_type_is_named_with_its_file_and_what_was_wanted(
    tmp_path: Path, column: str, kind: pa.DataType, value: Any, wanted: str
) -> None:
    schema = BLINK.set(BLINK.get_field_index(column), pa.field(column, kind))
    name = "val-00001-of-00002.parquet"  # of two files the second one is wrong
    write_table(tmp_path / "Spatial_Relation" / "val-00000-of-00002.parquet", [blink_row(0)], BLINK)
    write_table(tmp_path / "Spatial_Relation" / name, [blink_row(1, **{column: value})], schema)
    with pytest.raises(ManifestError) as caught:
        open_benchmark("blink", tmp_path)
    found = str(pq.read_schema(tmp_path / "Spatial_Relation" / name).field(column).type)
    assert [(p.loc, p.kind, p.message) for p in caught.value.problems] == [
        (column, "wrong_type", f"wanted {wanted}, found {found}")
    ]
    assert caught.value.place == name


@pytest.mark.parametrize("kind", [pa.string(), pa.int64()])
def test_clevr_counts_are_integers_however_they_are_stored(tmp_path: Path, kind: pa.DataType) -> None:
    schema = CLEVR_COUNT.set(2, pa.field("answer", kind))
    answers = [str(i % 7) if kind == pa.string() else i % 7 for i in range(200)]
    rows = [
        {"images": [stored(i)], "problem": f"<image>How many things are in picture {i}?", "answer": a}
        for i, a in enumerate(answers)
    ]
    write_table(tmp_path / "data" / "test-00000-of-00001.parquet", rows, schema, group=32)
    bench = open_benchmark("clevr-count", tmp_path, rule="paper")
    assert [e.labels.answer for e in bench.examples] == [str(i % 7) for i in range(200)]
    assert bench.examples[9].text == "Answer with the number only.\nHow many things are in picture 9?"
    assert bench.examples[150].images[0].load() == png(150)
    _, search = train_test_split(list(range(200)), test_size=100, random_state=42)
    assert {i for i, e in enumerate(bench.examples) if e.labels.split == "search"} == set(search)


def test_clevr_count_rows_that_are_wrong_are_named(tmp_path: Path) -> None:
    good = {"images": [stored(1)], "problem": "<image>How many?", "answer": "3"}
    rows: list[dict[str, Any]] = [
        good,
        good | {"answer": "many"},
        good | {"answer": None},
        good | {"images": []},
        good | {"images": [stored(1), stored(2)]},
        good | {"images": [None]},
        good | {"problem": None},
    ]
    write_table(tmp_path / "data" / "test-00000-of-00001.parquet", rows, CLEVR_COUNT)
    bench = open_benchmark("clevr-count", tmp_path)
    kinds = ["bad_answer", "missing_value", "missing_image", "missing_image", "missing_image", "missing_value"]
    assert [f.kind for f in bench.failures] == kinds
    assert len(bench) == 1


@pytest.mark.parametrize(
    ("name", "file", "schema"),
    [
        ("clevr-count", "data/test-00000-of-00001.parquet", CLEVR_COUNT),
        ("whatsup-a", "data/Controlled_Images_A-00000-of-00001.parquet", WHATSUP),
        ("whatsup-b", "data/Controlled_Images_B-00000-of-00001.parquet", WHATSUP),
    ],
)
def test_every_column_that_is_missing_or_of_another_type_is_named(
    tmp_path: Path, name: str, file: str, schema: pa.Schema
) -> None:
    picture, *others = schema.names
    write_table(tmp_path / file, [{picture: 1, "more": 2}], pa.schema([(picture, pa.int64()), ("more", pa.int64())]))
    with pytest.raises(ManifestError) as caught:
        open_benchmark(name, tmp_path)
    problems = {(p.loc, p.kind) for p in caught.value.problems}
    assert problems == {(picture, "wrong_type"), *((other, "missing_column") for other in others)}


def _clevr(folder: Path, rows: list[Any], *, file: str, images: str) -> Path:
    (folder / images).mkdir(parents=True)
    for i in range(4):
        (folder / images / f"CLEVR_val_{i:06d}.png").write_bytes(png(i))
    write_json(folder / file, {"info": {"split": "val"}, "questions": rows})
    return folder


@pytest.mark.parametrize(("name", "file", "images"), CLEVR_LAYOUTS)
def test_clevr_questions_are_sorted_by_the_form_of_their_answer(
    tmp_path: Path, name: str, file: str, images: str
) -> None:
    picture = "CLEVR_val_000001.png"
    answers: list[Any] = ["3", 4, "yes", "no", True, "rubber", "True"]
    rows = [{"image_filename": picture, "question": f"Q{i}?", "answer": a} for i, a in enumerate(answers)]
    bench = open_benchmark(name, _clevr(tmp_path, rows, file=file, images=images))
    assert [(e.labels.answer, e.labels.meta["task"], e.labels.meta["kind"]) for e in bench.examples] == [
        ("3", "Count", "count"),
        ("4", "Count", "count"),
        ("yes", "YesNo", "text"),
        ("no", "YesNo", "text"),
        ("yes", "YesNo", "text"),
        ("rubber", "Attribute", "text"),
        ("yes", "YesNo", "text"),
    ]
    assert {e.labels.group_id for e in bench.examples} == {picture}
    assert bench.examples[0].images[0].load() == png(1)
    assert bench.examples[0].images[0].name == f"{images}/{picture}"
    assert len(open_benchmark(name, tmp_path, task="Count")) == 2


@pytest.mark.parametrize(("name", "file", "images"), CLEVR_LAYOUTS)
def test_clevr_rows_that_are_wrong_are_named(tmp_path: Path, name: str, file: str, images: str) -> None:
    good = {"image_filename": "CLEVR_val_000000.png", "question": "How many?", "answer": "1"}
    rows = [
        good,
        good | {"image_filename": "../../secret.png"},
        good | {"image_filename": "absent.png"},
        good | {"answer": None},
        good | {"question": 7},
        good | {"answer": [1]},
        3,
    ]
    bench = open_benchmark(name, _clevr(tmp_path, rows, file=file, images=images))
    assert [f.kind for f in bench.failures] == [
        "outside_folder",
        "missing_image",
        "missing_value",
        "wrong_type",
        "wrong_type",
        "wrong_type",
    ]
    assert [f.place for f in bench.failures][-1] == f"{Path(file).name}:7"
    assert bench.n_rows == 7


@pytest.mark.parametrize(("name", "path", "images"), CLEVR_LAYOUTS)
def test_clevr_files_of_another_shape_are_refused_with_every_missing_key(
    tmp_path: Path, name: str, path: str, images: str
) -> None:
    (tmp_path / images).mkdir(parents=True)
    file = tmp_path / path
    write_json(file, {"questions": [{"question": "Q", "split": "test"}]})
    with pytest.raises(ManifestError) as caught:
        open_benchmark(name, tmp_path)
    assert {p.loc for p in caught.value.problems} == {"image_filename", "answer"}
    for text in ("{", "[1, 2]", '{"questions": {}}', '{"questions": []}', "\udcff".encode("utf-8", "surrogateescape")):
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(ManifestError):
            open_benchmark(name, tmp_path)


def test_sets_that_are_not_on_the_hub_ask_for_a_folder() -> None:
    for name in ("clevr", "super-clevr"):
        with pytest.raises(NotFoundError, match="folder"):
            open_benchmark(name)
