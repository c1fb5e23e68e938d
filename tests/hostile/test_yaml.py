"""Documents made to exhaust a YAML reader, in each place where we read YAML: manifests, query headers, cards of data sets."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from steercache.core.errors import ManifestError, QueryError, SteercacheError
from steercache.data.hub_folder import check_cards
from steercache.manifests.load import parse_manifest
from steercache.queries.library import MAX_FILE_BYTES, parse_query, read_query

ALIASES = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefghijk", "bcdefghijkl", strict=True)
)
BOMBS = {
    "aliases": ALIASES,
    "brackets": "params: " + "[" * 100_000 + "]" * 100_000,
    "braces": "params: " + "{a: " * 50_000,
    "dashes": "params:\n " + "- " * 50_000 + "x",
    "open brackets": "params: " + "[" * 100_000,
    "itself": "params: &p {p: *p}",
    "values": "params: [" + "1," * 700_000 + "1]",
    "quote": "params: '" + "a" * 100_000,
    "python": "params: !!python/object/apply:os.system [touch ran]",
    "surrogate": 'params: "\\ud800" ' + "[" * 100_000,
    "names": "&" + "a" * 100_000 + " x",
}


def as_manifest(text: str, folder: Path) -> None:
    parse_manifest(f"kind: dataset\n{text}", file="x.yaml")


def as_header(text: str, folder: Path) -> None:
    lines = "".join(f"-- {line}\n" for line in f"name: x\n{text}".splitlines())
    parse_query(f"{lines}SELECT 1", place="x.sql")


def as_card(text: str, folder: Path) -> None:
    (folder / "README.md").write_text(f"---\nlicense: mit\n{text}\n---\n# A card\n")
    check_cards(folder, "folder[train]")


READERS = [
    pytest.param(as_manifest, ManifestError, id="manifest"),
    pytest.param(as_header, QueryError, id="header"),
    pytest.param(as_card, ManifestError, id="card"),
]


@pytest.mark.parametrize(("read", "kind"), READERS)
@pytest.mark.parametrize("bomb", BOMBS)
def test_a_document_made_to_exhaust_its_reader_is_refused_quickly(
    bomb: str,
    read: Callable[[str, Path], None],
    kind: type[SteercacheError],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    began = time.process_time()
    with pytest.raises(kind):
        read(BOMBS[bomb], tmp_path)
    assert time.process_time() - began < 10
    assert not (tmp_path / "ran").exists()


def test_a_header_says_which_field_is_wrong() -> None:
    with pytest.raises(QueryError, match="params: is given twice, first on line 2") as caught:
        parse_query("-- name: x\n-- params: {}\n-- params: {}\nSELECT 1", place="x.sql")
    assert caught.value.place == "x.sql"


def test_a_query_file_without_end_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.sql"
    with path.open("wb") as stream:
        stream.truncate(50 * 2**30)
    with pytest.raises(QueryError, match=f"more than {MAX_FILE_BYTES // 1024} KiB"):
        read_query(path)
