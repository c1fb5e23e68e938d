"""`steercache sae encode`, `list` and `rm`, and the same from Python: what is printed, the JSON, and the errors."""

import json
from pathlib import Path

import numpy as np
import pytest

import steercache
from steercache.cli.main import run
from steercache.core.errors import UsageError
from steercache.sae.loading import load_sae
from tests.sae.folders import D_SAE, inference, saved
from tests.sae.small_run import write_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(inference("jumprelu"), tmp_path_factory.mktemp("cli") / "small-sae")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_run(tmp_path / "root")
    return tmp_path / "root"


def test_a_run_is_encoded_listed_queried_and_removed(
    root: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at = ["--root", str(root)]
    assert run(["sae", "encode", str(folder), "--run", "text", *at]) == 0
    said = capsys.readouterr()
    assert "192 rows of resid_post 1 as 40 features, 192 of them new" in said.out
    assert "steercache query features_of_concept" in said.out + said.err
    assert run(["sae", "encode", str(folder), "--run", "text", "--json", *at]) == 0
    (done,) = json.loads(capsys.readouterr().out)
    assert (done["n_rows"], done["n_rows_new"], done["n_features"]) == (192, 0, D_SAE)
    assert run(["sae", "list", "--json", *at]) == 0
    listed = json.loads(capsys.readouterr().out)
    (one,) = [record for record in listed if record["run_id"]]
    assert (one["sae_id"], one["run_id"], one["layers"]) == (done["sae_id"], done["run_id"], [1])
    shipped = {record["sae"]: record for record in listed if not record["run_id"]}
    assert shipped["gemma-scope-2b-pt-res-canonical"]["layers"][:3] == [0, 1, 2]
    assert "smollm2-135m-l15" in shipped
    assert run(["sae", "list", *at]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("small-sae")]
    assert line.split()[-1] == "text", "the run that is encoded with it"
    assert run(["sae", "list", "--encoded", *at]) == 0
    shown = capsys.readouterr().out
    assert "jumprelu" in shown
    assert "gemma" not in shown
    assert run(["cache", "status", *at]) == 0
    assert "192 rows of" in capsys.readouterr().out
    assert run(["cache", "verify", *at]) == 0
    assert "no problem found" in capsys.readouterr().out

    assert run(["sae", "rm", "small-sae", *at]) == 2
    assert "--yes" in capsys.readouterr().err
    assert run(["sae", "rm", "small-sae", "--run", "text", "--yes", *at]) == 0
    assert "freed" in capsys.readouterr().out
    assert run(["sae", "rm", "small-sae", "--run", "text", "--yes", *at]) == 4


def test_an_unknown_sae_and_an_unknown_run_are_named(
    root: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["sae", "encode", "no-such-sae", "--run", "text", "--root", str(root)]) == 4
    assert "no-such-sae" in capsys.readouterr().err
    assert run(["sae", "encode", str(folder), "--run", "nothing", "--root", str(root)]) == 4
    assert "nothing" in capsys.readouterr().err


def test_python_encodes_and_reads_a_selection(root: Path, folder: Path) -> None:
    cache = steercache.open(root)
    encoded = cache.encode(folder, progress=False)
    assert encoded.run_id == cache.run("text").run_id
    assert repr(encoded).startswith("EncodedRun(sae=")
    sel = cache.select("anchor_vs_control", concept="counting")
    acts = encoded.read(sel)
    whole = encoded.read(np.arange(48))
    assert acts.n_rows == len(sel)
    first = sel.rows < 48
    assert np.array_equal(acts.rows(first).dense(), whole.dense()[sel.rows[first]])
    rows, values = encoded.feature(3)
    assert np.array_equal(values[rows < 48], whole.of(3)[whole.of(3) != 0])

    again = cache.encoded("small-sae")
    assert (again, again.seconds) == (cache.encodings()[0], 0.0)
    assert cache.encode(load_sae(folder), run="text", progress=False).n_rows_new == 0
    write_run(root, "other")
    other = cache.select("anchor_vs_control", concept="counting", run="other")
    with pytest.raises(UsageError, match="of run"):
        encoded.read(other)
