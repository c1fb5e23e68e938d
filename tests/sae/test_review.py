"""The review sheet: written, filled in as spreadsheets do, and read back; what does not fit is named with its line."""

import csv
import io
from pathlib import Path

import pytest

from steercache.core.errors import ManifestError, NotFoundError, SteercacheWarning, UsageError
from steercache.sae.candidates import Encodes, LayerCandidates, find_candidates
from steercache.sae.evidence import Context, Evidence
from steercache.sae.loading import load_sae
from steercache.sae.review import read_sheet, write_sheet
from steercache.sae.vector import features_of, sae
from tests.sae.planted_rows import PLANTED, planted_rows, sae_folder

Found = tuple[LayerCandidates, ...]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Encodes:
    return load_sae(sae_folder(tmp_path_factory.mktemp("sae") / "planted"))


@pytest.fixture(scope="module")
def found(loaded: Encodes) -> Found:
    return find_candidates(planted_rows(), [loaded])


def evidence(found: Found) -> dict[tuple[int, int], Evidence]:
    nasty = Context(before='=cmd|"x",\n', token="<b>", after="; end", value=1.5)
    return {
        (1, c.feature): Evidence(layer=1, feature=c.feature, explanation="=SUM(A1)", contexts=(nasty,), source="run")
        for c in found[0].picked
    }


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(), newline="")))


def fill(path: Path, answers: dict[int, str], *, delimiter: str = ",", encoding: str = "utf-8") -> None:
    rows = rows_of(path)
    for row in rows:
        row["verdict"] = answers.get(int(row["feature"]), "")
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(rows[0]), delimiter=delimiter, lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(rows)
    path.write_bytes(out.getvalue().encode(encoding))


def test_a_sheet_has_every_picked_feature_and_nothing_that_a_spreadsheet_would_run(
    found: Found, tmp_path: Path
) -> None:
    table, text = write_sheet(tmp_path / "review", found, evidence(found), concept="counting")
    rows = rows_of(table)
    assert [int(r["feature"]) for r in rows] == [c.feature for c in found[0].picked]
    assert {r["verdict"] for r in rows} == {""}
    assert {r["sae_id"] for r in rows} == {found[0].spec.sae_id}
    assert not [cell for r in rows for cell in r.values() if cell.startswith(("=", "+", "-", "@"))]
    shown = text.read_text()
    assert all(f"feature {f}\n" in shown for f in PLANTED)
    assert "<b>" not in shown.replace("\\<b\\>", "")


@pytest.mark.parametrize(
    ("delimiter", "encoding"), [(",", "utf-8"), (";", "utf-8-sig"), (",", "utf-8-sig"), ("\t", "utf-16")]
)
def test_verdicts_are_read_back_and_decide(
    found: Found, loaded: Encodes, tmp_path: Path, delimiter: str, encoding: str
) -> None:
    table, _ = write_sheet(tmp_path / "review", found, evidence(found), concept="counting")
    fill(table, {5: "Yes ", 17: "y", 60: "NO", 2: "unclear"}, delimiter=delimiter, encoding=encoding)
    verification = read_sheet(table, found)
    assert {v.feature: v.answer for v in verification.verdicts} == {5: "yes", 17: "yes", 60: "no", 2: "unclear"}
    assert {v.explanation for v in verification.verdicts} == {"=SUM(A1)"}
    vector = sae(planted_rows(), [loaded], verification=verification)
    assert set(features_of(vector, 1)) == {5, 17}
    assert vector.provenance["verification"] == {"by": "sheet", "n_verdicts": 4}
    assert set(vector.provenance["features"]["1"]["judge"]) == {"sheet", None}


def test_a_sheet_that_was_filled_in_is_not_written_over(found: Found, tmp_path: Path) -> None:
    table, _ = write_sheet(tmp_path / "review", found, {}, concept="counting")
    write_sheet(tmp_path / "review", found, {}, concept="counting")
    fill(table, {5: "yes"})
    before = table.read_bytes()
    with pytest.raises(UsageError, match="holds verdicts already"):
        write_sheet(tmp_path / "review", found, {}, concept="counting")
    assert table.read_bytes() == before
    (tmp_path / "other.csv").write_text("mine")
    with pytest.raises(UsageError, match="holds verdicts already"):
        write_sheet(tmp_path / "other", found, {}, concept="counting")


def test_every_row_that_cannot_be_read_is_named_with_its_line(found: Found, tmp_path: Path) -> None:
    sheet = tmp_path / "s.csv"
    sheet.write_text(
        "layer,feature,verdict,sae_id\n1,5,maybe,\n1,x,yes,\n9,5,yes,\n1,5,yes,\n1,5,no,\n1,6,yes,other\n1,17,,\n1,96,yes,\n"
    )
    with pytest.raises(ManifestError) as refused:
        read_sheet(sheet, found)
    assert [(p.line, p.message.split(" ")[0]) for p in refused.value.problems] == [
        (2, "the"), (3, "the"), (4, "layer"), (6, "a"), (7, "the"), (9, "no"),
    ]  # fmt: skip


def test_verdicts_on_features_that_are_not_picked_are_said(found: Found, loaded: Encodes, tmp_path: Path) -> None:
    other = next(f for f in range(96) if f not in {c.feature for c in found[0].picked})
    (tmp_path / "s.csv").write_text(f"layer,feature,verdict\r\n1,5,yes\r\n1,5,yes\r\n1,{other},yes\r\n")
    with pytest.warns(SteercacheWarning, match=rf"1 of its verdicts is on features .* feature {other} of layer 1"):
        verification = read_sheet(tmp_path / "s.csv", found)
    assert {v.feature for v in verification.verdicts} == {5, other}
    (tmp_path / "less.csv").write_text("layer,feature,verdict\n1,5,yes\n")
    less = read_sheet(tmp_path / "less.csv", found)
    vectors = [sae(planted_rows(), [loaded], verification=one) for one in (verification, less)]
    assert vectors[0].vector_id == vectors[1].vector_id, "what is not used is no part of the vector"


@pytest.mark.parametrize("data", [b"", b"layer,feature\n1,2\n", b"\xff\xfe\x00", b"PK\x03\x04xlsx"])
def test_what_is_no_sheet_is_said(found: Found, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "s.csv").write_bytes(data)
    with pytest.raises(UsageError):
        read_sheet(tmp_path / "s.csv", found)
    with pytest.raises(NotFoundError, match="no such sheet"):
        read_sheet(tmp_path / "none.csv", found)
