"""What is read back of several sweeps' answers: one whole row, the same one every time."""

import tempfile
from pathlib import Path

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from steercache.answers.store import StoredAnswer, stored_answers
from steercache.cache.handle import open_cache
from steercache.cache.sweeps import save_sweep
from steercache.core.trials import Answer, Cell, Mode

CELL = Cell(vector_id=None, layer=None, alpha=0.0, target="all", model_fingerprint="f" * 64, prompt_id="p")
MODES = ("full", "replay", "branch", None)


def stored_of(margin: float | None, margin_of: str | None, *, raw: str = "A") -> Answer:
    return Answer(
        cell_id=CELL.cell_id, sample_id="x", split="test", raw=raw, margin=margin, margin_of=margin_of, mode="branch"
    )


def stored(raw: str, margin: float | None, mode: Mode) -> Answer:
    return Answer(cell_id=CELL.cell_id, sample_id="x", split="test", raw=raw, margin=margin, mode=mode)


rows_st = st.builds(
    Answer,
    cell_id=st.just(CELL.cell_id),
    sample_id=st.just("x"),
    split=st.just("test"),
    raw=st.sampled_from(["A", "B", "C"]),
    margin=st.sampled_from([None, -1.0, 0.5, 2.0]),
    mode=st.sampled_from(MODES),
    status=st.sampled_from(["ok", "ok", "failed"]),
)


@settings(max_examples=2, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example([stored("B", -1.0, "replay"), stored("A", 2.0, "full")])  # least raw, margin and mode are of both
@example([stored("A", None, "full"), stored("B", 0.5, "branch")])
@given(st.lists(rows_st, min_size=1, max_size=4))
def test_an_answer_read_back_is_one_of_the_answers_that_were_stored(rows: list[Answer]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        cache = open_cache(Path(folder) / "root", create=True)
        for i, row in enumerate(rows):
            save_sweep(cache, f"s{i}", manifest={"i": i}, cells=[CELL], answers=[row])
        found = stored_answers(cache, [CELL.cell_id])
        good = [row for row in rows if row.status == "ok"]
        whole = {StoredAnswer(raw=row.raw or "", margin=row.margin, mode=row.mode) for row in good}
        assert ({found[CELL.cell_id, "x"]} <= whole) if good else not found
        if good:
            best = min(good, key=lambda row: (row.margin is None, MODES.index(row.mode)))
            said = found[CELL.cell_id, "x"]
            assert ((said.margin is None), said.mode) == ((best.margin is None), best.mode)
        assert stored_answers(open_cache(Path(folder) / "root"), [CELL.cell_id]) == found


def test_of_several_margins_the_one_of_the_wanted_options_is_read(tmp_path: Path) -> None:
    cache = open_cache(tmp_path / "root", create=True)
    for i, row in enumerate([stored_of(1.0, "A|B"), stored_of(-1.0, "B|A"), stored_of(3.0, None, raw="old")]):
        save_sweep(cache, f"s{i}", manifest={"i": i}, cells=[CELL], answers=[row])

    def read(wanted: str | None) -> StoredAnswer | None:
        return stored_answers(cache, [CELL.cell_id], margins={"x": wanted}).get((CELL.cell_id, "x"))

    for wanted, margin in (("A|B", 1.0), ("B|A", -1.0)):
        said = read(wanted)
        assert said is not None
        assert (said.margin, said.margin_of) == (margin, wanted)
    assert read("A|C") is None  # what an older file does not say is not taken for these options
    assert getattr(read(None), "margin", 0.0) is None  # the words are the same whatever the options
    assert stored_answers(cache, [CELL.cell_id], margins={"y": None}) == {}
