"""Pictures of a data file: read when they are needed, and never from outside the file's folder."""

from pathlib import Path
from typing import Any

import pytest

from steercache.core.errors import ManifestError
from steercache.data.inside import resolve_inside
from tests.data.tables import dataset, write_jsonl, write_parquet

COLUMNS = {"text": "text", "image": "image"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data set's folder with two pictures, beside a file that it must not reach."""
    (tmp_path / "secret.png").write_bytes(b"secret")
    inner = tmp_path / "set"
    (inner / "images").mkdir(parents=True)
    (inner / "a.png").write_bytes(b"picture a")
    (inner / "images" / "b.png").write_bytes(b"picture b")
    (inner / "inside.png").symlink_to("images/b.png")
    (inner / "out.png").symlink_to(tmp_path / "secret.png")
    (inner / "up").symlink_to(tmp_path)
    (inner / "circle").symlink_to("circle")
    return inner


def loaded(folder: Path, values: list[Any]) -> list[list[bytes]]:
    write_jsonl(folder / "d.jsonl", [{"text": "t", "image": value} for value in values])
    found = dataset(folder, {"type": "jsonl", "path": "d.jsonl", "columns": COLUMNS})
    return [[image.load() for image in example.images] for example in found]


def test_pictures_are_found_beside_the_data_file(folder: Path) -> None:
    values = ["a.png", "images/b.png", ["a.png", "images/b.png"], {"path": "a.png"}, None, [], "inside.png", "./a.png"]
    a, b = b"picture a", b"picture b"
    assert loaded(folder, values) == [[a], [b], [a, b], [a], [], [], [b], [a]]


@pytest.mark.parametrize(
    "name",
    [
        "../secret.png",
        "images/../../secret.png",
        "images/../a.png",
        "..\\secret.png",
        "/etc/passwd",
        "C:\\Windows\\win.ini",
        "C:secret.png",
        "\\\\host\\share\\x.png",
        "out.png",
        "up/secret.png",
        "circle",
        "images",
        "absent.png",
        "a.png/b",
        "",
        "  ",
        "a\0.png",
        "x" * 5000,
        "https://example.org/a.png",
        "~/a.png",
    ],
)
def test_a_path_that_leaves_the_folder_or_is_no_file_is_refused(folder: Path, name: str) -> None:
    assert isinstance(resolve_inside(folder, name), str)
    with pytest.raises(ManifestError) as caught:
        loaded(folder, ["a.png", name])
    assert [(p.line, p.loc, p.kind) for p in caught.value.problems] == [(2, "image", "image")]


def test_an_absolute_path_into_the_folder_is_refused_too(folder: Path) -> None:
    assert isinstance(resolve_inside(folder, str(folder / "a.png")), str)


def test_a_file_that_was_exchanged_for_a_link_after_the_check_is_refused_when_it_is_read(folder: Path) -> None:
    write_jsonl(folder / "d.jsonl", [{"text": "t", "image": "a.png"}])
    (example,) = dataset(folder, {"type": "jsonl", "path": "d.jsonl", "columns": COLUMNS})
    (folder / "a.png").unlink()
    (folder / "a.png").symlink_to(folder.parent / "secret.png")
    with pytest.raises(ManifestError, match="a link leads out"):
        example.images[0].load()


def test_the_folder_itself_may_be_reached_through_a_link(folder: Path) -> None:
    (folder.parent / "link").symlink_to(folder)
    assert loaded(folder.parent / "link", ["a.png"]) == [[b"picture a"]]


def test_bytes_in_a_parquet_file_need_no_file(folder: Path) -> None:
    rows = [
        {"text": "t", "image": {"bytes": b"raw", "path": "/etc/passwd"}},
        {"text": "t", "image": {"bytes": None, "path": "a.png"}},
    ]
    write_parquet(folder / "d.parquet", rows)
    found = list(dataset(folder, {"type": "parquet", "path": "d.parquet", "columns": COLUMNS}))
    assert [example.images[0].load() for example in found] == [b"raw", b"picture a"]


def test_other_things_than_pictures_are_named(folder: Path) -> None:
    with pytest.raises(ManifestError) as caught:
        loaded(folder, [5, {"path": 3}, [None], {"bytes": "text"}, [["a.png"]]])
    assert [p.line for p in caught.value.problems] == [1, 2, 3, 4, 5]
