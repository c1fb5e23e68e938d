"""Progress: what is left is believed from the estimate first and from the clock last; lines where there is no terminal."""

import pytest

from steercache.cli import progress
from steercache.cli.progress import Bar, progress_bar, remaining_s
from steercache.core.activity import announce


def test_time_left_goes_from_what_was_expected_to_what_is_seen() -> None:
    assert remaining_s(0.0, 0.0, None) is None
    assert remaining_s(0.0, 0.0, 60.0) == 60.0
    # the work really takes 200 s and was announced as 60: the error shrinks with every part that is done
    errors = [abs((remaining_s(200 * f, f, 60.0) or 0.0) - 200 * (1 - f)) for f in (0.1, 0.4, 0.7, 0.95, 1.0)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] == 0.0
    assert remaining_s(90.0, 0.0, 60.0) == 0.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_without_a_terminal_long_work_says_a_line_now_and_then(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with progress_bar("answers", total=100, unit="answers") as bar:
        for _ in range(100):
            clock[0] += 1.0
            bar.advance()
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "answers 30 of 100 answers, about 70 s left",
        "answers 60 of 100 answers, about 40 s left",
        "answers 90 of 100 answers, about 10 s left",
    ]


def test_what_is_announced_is_said_before_the_work_and_counts_down(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with progress_bar("reading inputs", total=None, unit="") as bar:
        announce("converting the weights of model.gguf, once")
        assert bar._label.startswith("converting")
        announce("branching 300 answers", 60.0)
        assert capsys.readouterr().err == "branching 300 answers: about 60 s\n"
        bar.show("answers", 0, 300)
        clock[0] += 15.0
        assert bar.left_s == pytest.approx(45.0)
        announce("branching 3 answers", 0.6)  # too short for a line
    announce("nobody listens any more", 1000.0)
    assert capsys.readouterr().err == ""


def test_quiet_work_says_nothing(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("answers", total=10, unit="", quiet=True) as bar:
        announce("answers", 500.0)
        clock[0] += 500.0
        bar.advance(5)
    assert capsys.readouterr() == ("", "")
    assert isinstance(bar, Bar)
