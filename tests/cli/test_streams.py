"""Standard streams that are closed, full, without a reader or in a small encoding, in real processes."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from steercache.cli.output import print_json
from steercache.cli.streams import is_unicode

PROGRAM = f"{shlex.quote(sys.executable)} -m steercache.cli.main"
WORD = "caf\u00e9 \u65e5"


def shell(line: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """One line of bash, `steercache` replaced by this program; Python's own settings of streams are taken away."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHONIO"))}
    return subprocess.run(
        ["bash", "-c", line.replace("steercache", PROGRAM)],
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        cwd=folder,
        env=kept | environment,
        check=False,
    )


OFTEN = [
    ("steercache vectors list >&-", 0, "", "next:"),
    ("steercache vectors lst >&- 2>&- <&-", 2, "", ""),
    ("steercache vectors list >/dev/full", 8, "", "No space left on device"),
    ("steercache vectors list 2>&1 | true; exit ${PIPESTATUS[0]}", 0, "", ""),
]
MORE = [
    ("steercache vectors list --json >&- 2>&-", 0, "", ""),
    ("steercache cache rm smollm2-concepts <&-", 2, "", "--yes"),
    ("steercache vectors nope 2>/dev/full", 2, "", ""),
    ("steercache build my-trace.yaml 2>/dev/full", 0, "cached already", ""),
    ("steercache query --limit 9999 'select 1 from tokens a, tokens b' | true; exit ${PIPESTATUS[0]}", 0, "", ""),
    ("steercache vectors nope 2>&1 >/dev/null | true; exit ${PIPESTATUS[0]}", 2, "", ""),
    ("mkdir gone; cd gone; rmdir ../gone; steercache vectors list", 2, "", "the current folder no longer exists"),
]


@pytest.mark.parametrize(
    ("line", "code", "out", "err"), [*OFTEN, *(pytest.param(*case, marks=pytest.mark.slow) for case in MORE)]
)
def test_a_stream_or_folder_that_is_not_there_is_no_bug(line: str, code: int, out: str, err: str, work: Path) -> None:
    done = shell(line, work, PYTHONPATH=str(Path(__file__).parents[2]))
    assert done.returncode == code, done.stderr
    assert out in done.stdout
    assert err in done.stderr
    assert "bug" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "encoding", ["ascii", *(pytest.param(e, marks=pytest.mark.slow) for e in ("latin-1", "utf-8"))]
)
def test_a_character_that_the_encoding_lacks_is_written_as_its_escape(encoding: str, work: Path) -> None:
    settings = {"PYTHONIOENCODING": encoding, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = shell(
        f"""steercache query "select '{WORD}' as w"; steercache query --json "select '{WORD}' as w" """,
        work,
        **settings,
    )
    table, _, document = done.stdout.partition("[")
    assert done.returncode == 0, done.stderr
    assert WORD.encode(encoding, "backslashreplace").decode(encoding) in table.encode(
        "utf-8", "surrogateescape"
    ).decode(encoding)
    assert WORD in document, "JSON is UTF-8 whatever the terminal is"


def test_json_on_a_stream_of_few_characters_is_still_json(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for encoding in ("ascii", "utf-8"):
        path = tmp_path / encoding
        with path.open("w", encoding=encoding) as stream:
            monkeypatch.setattr(sys, "stdout", stream)
            print_json({"w": WORD})
            monkeypatch.undo()
            assert is_unicode(stream) == (encoding == "utf-8")
        assert json.loads(path.read_bytes()) == {"w": WORD}


@pytest.mark.parametrize(
    "columns", ["0", *(pytest.param(c, marks=pytest.mark.slow) for c in ("1", "x", "-5", "99999"))]
)
def test_messages_are_whole_lines_however_wide_the_terminal_says_it_is(columns: str, work: Path) -> None:
    done = shell(
        f"COLUMNS={columns} TERM=dumb steercache vectors show counting", work, PYTHONPATH=str(Path(__file__).parents[2])
    )
    assert done.returncode == 0
    assert "  steercache vectors refit counting\n" in done.stderr
