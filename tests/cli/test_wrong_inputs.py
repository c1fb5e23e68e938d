"""What people get wrong: one message that names the thing, the next command to try, the exit code of its class."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.small import Terminal

USAGE, DOCUMENT, NOT_FOUND, DAMAGED, BUDGET = 2, 3, 4, 5, 8

# command line, exit code, what the message must name
WRONG = [
    ("plan nowhere.yaml", NOT_FOUND, "nowhere.yaml"),
    ("build nowhere.yaml", NOT_FOUND, "nowhere.yaml"),
    ("plan smollm2-concept", NOT_FOUND, "smollm2-concepts"),
    ("plan concepts", NOT_FOUND, "is a dataset"),
    ("plan .", NOT_FOUND, "'.'"),
    ("plan broken.yaml", DOCUMENT, "broken.yaml:4"),
    ("plan binary.yaml", DOCUMENT, "not UTF-8"),
    ("plan deep.yaml", USAGE, "blocks 0 to 7"),
    ("plan no-data.yaml", NOT_FOUND, "gone.jsonl"),
    ("build my-trace.yaml --root a-file", USAGE, "'a-file' is a file"),
    ("build my-trace.yaml --root a-file/inside", USAGE, "a-file"),
    ("build my-trace.yaml --root new --device tpux", USAGE, "tpux"),
    ("build my-trace.yaml --root new --budget nan", USAGE, "nan"),
    ("build my-trace.yaml --root new --budget inf", USAGE, "inf"),
    ("build my-trace.yaml --root new --budget 0.00001", BUDGET, "10 kB"),
    ("cache status --root nowhere", NOT_FOUND, "nowhere"),
    ("cache status --root empty", NOT_FOUND, "empty"),
    ("cache verify nobody", NOT_FOUND, "'nobody'"),
    ("cache compact nobody", NOT_FOUND, "there are: smollm2-concepts"),
    ("cache compact smollm2-concepts --codec raw", USAGE, "raw"),
    ("cache rm nobody --yes", NOT_FOUND, "'nobody'"),
    ("fit mean-shift", DOCUMENT, "concept"),
    ("fit mean-shift --concept nobody", NOT_FOUND, "concepts: counting, negation"),
    ("fit mean-shift --concept counting -p concept=negation", USAGE, "concept"),
    ("fit mean-shift --concept counting --layer 99", USAGE, "no layer 99"),
    ("fit mean-shift --concept counting --layer 5-1", USAGE, "no layers"),
    ("fit mean-shift --concept counting --layer ²", USAGE, "²"),
    ("fit mean-shift --concept counting --layer 0-99999999999", USAGE, "0-99999999999"),
    ("fit mean-shift --concept counting --site mlp_out", NOT_FOUND, "mlp_out"),
    ("fit mean-shift --concept counting --run nobody", NOT_FOUND, "'nobody'"),
    ("fit mean-shift --concept counting --query nobody", NOT_FOUND, "'nobody'"),
    ("fit mean-shift --concept counting --query concept_counts", DOCUMENT, "not a selection"),
    ("fit mean-shift --query 'select run_id, row_idx from tokens'", USAGE, "no labels"),
    ("fit mean-shift --all-concepts --concept counting", USAGE, "--all-concepts"),
    ("fit mean-shift --all-concepts --name one", USAGE, "--name"),
    ("vectors show nobody", NOT_FOUND, "there are: counting, counting-probe"),
    ("vectors refit nobody", NOT_FOUND, "'nobody'"),
    ("vectors compare counting", USAGE, "two"),
    ("steer nobody hello --layer 0", NOT_FOUND, "'nobody'"),
    ("steer counting hello --layer 99", USAGE, "99"),
    ("steer counting hello --layer -1", USAGE, "-1"),
    ("steer counting hello --layer 1 --alpha strong", USAGE, "strong"),
    ("steer counting hello --layer 1 --alpha 1,nan", USAGE, "nan"),
    ("steer counting hello --layer 1 --alpha inf", USAGE, "inf"),
    ("steer counting '' --layer 1", USAGE, "no tokens"),
    ("steer counting hello --layer 1 --model nobody", NOT_FOUND, "'nobody'"),
    ("steer counting hello --layer 1 --model my-trace.yaml", DOCUMENT, "this is a trace"),
    ("steer counting hello --layer 1 --tokens image", USAGE, "image"),
    ("steer counting hello --layer 1 --chat", USAGE, "chat template"),
    ("query nobody", NOT_FOUND, "'nobody'"),
    ("query anchor_token", NOT_FOUND, "anchor_tokens"),
    ("query 'select * from nobody'", DOCUMENT, "nobody"),
    ("query 'select nobody from tokens'", DOCUMENT, "nobody"),
    ("query 'drop table runs'", DOCUMENT, "DROP"),
    ("query \"select * from read_csv('/etc/passwd')\"", DOCUMENT, "read_csv"),
    ("query \"attach 'x.db'\"", DOCUMENT, "ATTACH"),
    ("query 'select $a'", DOCUMENT, "$a"),
    ("query ''", DOCUMENT, "no statement"),
    ("query 'select 1; select 2'", DOCUMENT, "2"),
    ("query", USAGE, "-f FILE"),
    ("query -f nowhere.sql", NOT_FOUND, "nowhere.sql"),
    ("query -f headless.sql", DOCUMENT, "kind"),
    ("query anchor_tokens", DOCUMENT, "concept"),
    ("query anchor_tokens -p concept", USAGE, "'concept'"),
    ("query anchor_tokens -p concept=a -p concept=b", USAGE, "twice"),
    ("query concept_counts -p nope=1", DOCUMENT, "nope"),
    ("query token_frequency -p top=many", DOCUMENT, "'many'"),
    ("query concept_counts --format csv -o no-such-folder/x.csv", USAGE, "no-such-folder/x.csv"),
    ("query concept_counts --format table -o x", USAGE, "table"),
    ("query --show nobody", NOT_FOUND, "'nobody'"),
    ("manifest check nowhere.yaml", NOT_FOUND, "nowhere.yaml"),
    ("manifest check empty", NOT_FOUND, "empty"),
    ("manifest check broken.yaml", DOCUMENT, "broken.yaml:4"),
    ("manifest show nobody", NOT_FOUND, "'nobody'"),
    ("manifest schema nobody", USAGE, "'nobody'"),
]


OPEN_TO_ALL = all(folder.stat().st_mode & 0o005 == 0o005 for folder in Path(__file__).resolve().parents)


@pytest.fixture(scope="session")
def cluttered(built_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working folder with things in it that are not what they seem."""
    folder = tmp_path_factory.mktemp("cluttered") / "work"
    shutil.copytree(built_once, folder)
    (folder / "empty").mkdir()
    (folder / "a-file").write_text("not a folder")
    (folder / "broken.yaml").write_text("kind: trace\nversion: 1\nname: [\n")
    (folder / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    good = (folder / "my-trace.yaml").read_text()
    (folder / "deep.yaml").write_text(good + "layers: [0, 8]\n")
    (folder / "no-data.yaml").write_text(good.replace("words.jsonl", "gone.jsonl"))
    (folder / "headless.sql").write_text("-- name: headless\n-- kind: nope\nselect 1")
    return folder


@pytest.mark.parametrize(("line", "code", "named"), WRONG, ids=[line for line, _, _ in WRONG])
def test_a_wrong_input_is_named_with_a_way_out(
    line: str, code: int, named: str, cluttered: Path, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(cluttered)
    before = sorted(cluttered.rglob("*.safetensors"))
    assert terminal(*shlex.split(line)) == code, terminal.err
    assert named in terminal.err
    assert terminal.err.startswith("error: ")
    assert "\ntry: " in terminal.err
    assert terminal.out == ""
    assert sorted(cluttered.rglob("*.safetensors")) == before


HIDDEN = {  # what may not be read: the command that meets it
    ".": ("cache", "status"),
    "runs": ("query", "concept_counts"),
    "runs/*/run.json": ("cache", "verify"),
    "runs/*/CURRENT": ("cache", "status"),
    "runs/*/g0001/resid_post/c.0.0.0": ("cache", "verify"),
    "vectors/*.safetensors": ("vectors", "list"),
}
AS_NOBODY = """
import contextlib, io, json, os, sys
import click
from steercache.cli.main import run, steercache
for name in ("cache", "query", "vectors"):  # loaded before: nobody may not look into the folder of the interpreter
    steercache.get_command(click.Context(steercache), name)
commands = json.loads(sys.argv[1])
with contextlib.redirect_stdout(io.StringIO()):
    run(["query", "concept_counts", "--root", sys.argv[2]])
os.setuid(65534)
answers = []
for words in commands:
    with contextlib.redirect_stderr(io.StringIO()) as stderr, contextlib.redirect_stdout(io.StringIO()):
        code = run(words)
    answers.append([code, stderr.getvalue()])
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def as_nobody(built_once: Path) -> Iterator[dict[str, tuple[int, str]]]:
    """What each command of HIDDEN says to a user who may not read that part of the cache."""
    cache = built_once / "cache"
    with tempfile.TemporaryDirectory() as base:
        Path(base).chmod(0o755)
        commands = []
        for i, (hidden, words) in enumerate(HIDDEN.items()):
            root = Path(base) / str(i)
            shutil.copytree(cache, root)
            for path in [root] if hidden == "." else sorted(root.glob(hidden)):
                path.chmod(0o600)
            commands.append([*words, "--root", str(root)])
        call = [sys.executable, "-c", AS_NOBODY, json.dumps(commands), str(cache)]
        done = subprocess.run(call, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        answers = json.loads(done.stdout)
        yield dict(zip(HIDDEN, map(tuple, answers), strict=True))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become nobody")
@pytest.mark.skipif(not OPEN_TO_ALL, reason="nobody may not read this checkout: it lies in a private folder")
@pytest.mark.parametrize("hidden", HIDDEN)
def test_what_may_not_be_read_is_named(hidden: str, as_nobody: dict[str, tuple[int, str]], built_once: Path) -> None:
    code, message = as_nobody[hidden]
    first = str(list(HIDDEN).index(hidden)) if hidden == "." else sorted((built_once / "cache").glob(hidden))[0].name
    assert code == USAGE, message
    assert first in message
    assert "\ntry: " in message
    assert "Traceback" not in message
