"""`steercache sae train` and `Cache.train_sae` on a run: which rows, what is printed, what the folder says, the errors."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import steercache
from steercache.cli.main import run
from steercache.core.errors import DamagedError, NotFoundError, UsageError
from steercache.sae.fits_run import check_fits
from steercache.sae.loading import load_sae
from steercache.sae.training_rows import training_rows
from tests.sae.folders import D_IN
from tests.sae.small_run import write_run

SMALL = steercache.TrainingSettings(width=24, k=4, batch_size=16, n_rows=320, held_out=0.25)
OPTIONS = ["--layer", "1", "--width", "24", "--k", "4", "--batch-size", "16", "--rows", "320", "--held-out", "0.25"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_run(tmp_path / "root")
    return tmp_path / "root"


def test_position_0_and_held_out_samples_are_not_trained_on(root: Path) -> None:
    cache = steercache.open(root)
    found = training_rows(
        cache.session, cache.folder.resolve_run("text"), layer=1, held_out=0.25, max_norm_ratio=None, seed=0
    )
    tokens = cache.sql("SELECT row_idx, sample_idx, position FROM tokens ORDER BY row_idx").df()
    used = tokens[tokens.row_idx.isin(found.training)]
    aside = tokens[tokens.row_idx.isin(found.held_out)]
    assert len(used) + len(aside) == (tokens.position > 0).sum() == 16 * 11
    assert used.position.min() == aside.position.min() == 1
    assert not set(used.sample_idx) & set(aside.sample_idx)
    assert aside.sample_idx.nunique() == 4
    assert found.width == D_IN
    mean = np.linalg.norm(
        cache.folder.source(cache.folder.resolve_run("text")).gather("resid_post", 1, found.training), axis=1
    )
    assert found.mean_norm == pytest.approx(float(mean.mean()), rel=1e-5)


def test_long_rows_are_left_out_and_counted(root: Path) -> None:
    cache = steercache.open(root)
    run_id = cache.folder.resolve_run("text")
    source = cache.folder.source(run_id)
    found = training_rows(cache.session, run_id, layer=1, held_out=0.0, max_norm_ratio=1.3, seed=0)
    tokens = cache.sql("SELECT row_idx FROM tokens WHERE position > 0 ORDER BY row_idx").df()
    rows = tokens.row_idx.to_numpy().astype(np.int64)
    norms = np.linalg.norm(source.gather("resid_post", 1, rows), axis=1)
    expected = rows[norms <= 1.3 * np.median(norms)]
    np.testing.assert_array_equal(found.training, expected)
    assert found.n_long == len(rows) - len(expected) > 0


def test_the_command_trains_measures_and_resumes(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "saes" / "mine"
    words = ["sae", "train", "--run", "text", *OPTIONS, "--out", str(out), "--root", str(root)]
    assert run(words) == 0
    said = capsys.readouterr()
    assert "explained variance" in said.out
    assert f"steercache sae encode {out} --run text" in said.err + said.out
    assert run([*words, "--json"]) == 0  # finished: nothing is trained again
    found = json.loads(capsys.readouterr().out)
    assert found["sae"]["layer"] == 1
    assert found["sae"]["d_sae"] == 24
    ours = json.loads((out / "cfg.json").read_text())["metadata"]["steercache"]
    assert found["health"]["n_rows"] == ours["n_held_out_rows"]
    assert found["health"] == json.loads((out / "health.json").read_text())
    assert run([*words, "--seed", "1"]) == 2
    assert "something else" in capsys.readouterr().err
    assert run(["sae", "encode", str(out), "--run", "text", "--root", str(root)]) == 0


def test_the_folder_names_model_block_and_run_and_fits_the_run(root: Path, tmp_path: Path) -> None:
    cache = steercache.open(root)
    trained = cache.train_sae("text", layer=1, out=tmp_path / "sae", settings=SMALL)
    document = cache.folder.run_document(cache.folder.resolve_run("text"))
    spec = load_sae(tmp_path / "sae").spec
    assert trained.sae.spec.sae_id == spec.sae_id
    assert (spec.model_name, spec.site, spec.layer, spec.d_in) == (document.model.name, "resid_post", 1, D_IN)
    check_fits(spec, cache.folder, document.run_id)
    ours = json.loads((tmp_path / "sae" / "cfg.json").read_text())["metadata"]["steercache"]
    assert ours["run_id"] == document.run_id
    n_rows = ours["n_training_rows"] + ours["n_held_out_rows"] + ours["n_long_rows_left_out"]
    assert n_rows == 16 * 11  # all but first positions
    assert (trained.n_training_rows, trained.n_held_out_rows) == (ours["n_training_rows"], ours["n_held_out_rows"])
    assert trained.health is not None
    assert trained.health.n_rows == trained.n_held_out_rows


def test_errors_name_what_is_wrong(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = steercache.open(root)
    with pytest.raises(NotFoundError, match="layer 7"):
        cache.train_sae("text", layer=7, out=tmp_path / "sae", settings=SMALL)
    with pytest.raises(NotFoundError, match="no rows of kind image"):
        cache.train_sae("text", layer=1, out=tmp_path / "sae", settings=SMALL, kinds=["image"])
    with pytest.raises(UsageError, match="words"):
        cache.train_sae("text", layer=1, out=tmp_path / "sae", settings=SMALL, kinds=["words"])
    with pytest.raises(UsageError, match="do not fill a batch"):
        cache.train_sae("text", layer=1, out=tmp_path / "sae")
    assert not (tmp_path / "sae").exists()
    assert run(["sae", "train", "--run", "no", *OPTIONS, "--out", str(tmp_path / "sae"), "--root", str(root)]) == 4
    capsys.readouterr()


def test_rows_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "root", finite=False)
    cache = steercache.open(tmp_path / "root")
    with pytest.raises(DamagedError, match="not finite"):
        cache.train_sae("text", layer=1, out=tmp_path / "sae", settings=SMALL)


SCRIPT = """
import socket, sys
def refuse(*args, **kwargs):
    raise AssertionError("network")
socket.socket.connect = refuse
import steercache
settings = steercache.TrainingSettings(width=24, k=4, batch_size=16, n_rows=320, held_out=0.25)
steercache.open(sys.argv[1]).train_sae("text", layer=1, out=sys.argv[2], settings=settings, progress=False)
import wandb
assert wandb.run is None
"""


@pytest.mark.slow
def test_training_writes_nothing_but_its_folder_and_asks_no_network(root: Path, tmp_path: Path) -> None:
    """wandb, which sae-lens imports, never starts."""
    here = tmp_path / "here"
    here.mkdir()
    words = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(root), str(tmp_path / "sae")]
    done = subprocess.run(words, cwd=here, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert list(here.iterdir()) == []
    assert {path.name for path in (tmp_path / "sae").iterdir()} == {
        "cfg.json",
        "sae_weights.safetensors",
        "health.json",
    }
