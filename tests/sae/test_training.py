"""Training from rows: against its start, a random SAE and PCA; and kills at any point end with the same bytes."""

import json
import os
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steercache.core.errors import BudgetError, BusyError, DamagedError, UsageError
from steercache.core.locks import lock_file
from steercache.sae import training
from steercache.sae.loading import load_sae
from steercache.sae.trainer import fold, make_trainer
from steercache.sae.training import CONFIG, WEIGHTS, WORK, train_sae
from steercache.sae.training_settings import TrainingSettings
from tests.sae.training_data import ACTIVE, METADATA, PLANTED, WIDTH, as_training_rows, planted_rows, settings, trained


def explained(x: np.ndarray, found: np.ndarray) -> float:
    """Share of the variance of rows (n, d) that is rebuilt."""
    return float(1 - ((x - found) ** 2).sum() / ((x - x.mean(0)) ** 2).sum())


def by_sae(folder: Path, x: np.ndarray) -> tuple[float, float]:
    """Explained variance and L0, by sae-lens' own module on raw rows."""
    sae = load_sae(folder)
    features = sae.encode(torch.from_numpy(x))
    return explained(x, sae.decode(features).numpy()), float((features > 0).sum(1).float().mean())


def by_pca(x_train: np.ndarray, x: np.ndarray, n_components: int) -> float:
    """Explained variance by the first components: as many numbers per row as an SAE of that L0 has."""
    mean = x_train.mean(0)
    axes = np.linalg.svd(x_train - mean, full_matrices=False)[2][:n_components]
    return explained(x, mean + (x - mean) @ axes.T @ axes)


def by_random_directions(x_train: np.ndarray, x: np.ndarray, n: int, k: int) -> float:
    """Explained variance by the best k of n random directions, fitted to each row by least squares: no worse than any SAE of
    random weights of that L0."""
    mean = x_train.mean(0)
    directions = np.random.default_rng(3).normal(size=(n, x.shape[1]))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    found = np.empty_like(x)
    for i, row in enumerate(x - mean):
        best = directions[np.argsort(-(directions @ row))[:k]]
        found[i] = mean + best.T @ np.linalg.lstsq(best.T, row, rcond=None)[0]
    return explained(x, found)


OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in ("topk", "jumprelu", "standard")]


@pytest.mark.parametrize("architecture", ["batchtopk", *OTHERS])
def test_a_trained_sae_beats_its_start_a_random_one_and_pca_of_equal_l0(tmp_path: Path, architecture: Any) -> None:
    rows, values = planted_rows()
    options = {"architecture": architecture, "n_rows": 120_000}
    options |= {"jumprelu": {"sparsity_coefficient": 30.0}, "standard": {"sparsity_coefficient": 2.0}}.get(
        architecture, {}
    )
    folder = trained(rows, tmp_path / "sae", **options)
    held_out = values[rows.held_out]
    score, l0 = by_sae(folder, held_out)
    k = int(np.ceil(l0))
    assert 1 <= k < WIDTH / 2
    if "topk" in architecture:  # the others are drawn towards k by a penalty, and not held to it
        assert l0 == pytest.approx(ACTIVE, rel=0.25)

    start = make_trainer(
        settings(**options), width=WIDTH, n_steps=400, mean_norm=rows.mean_norm, metadata=METADATA, device="cpu"
    )
    fold(start).save_inference_model(tmp_path / "start")
    start_score, _ = by_sae(tmp_path / "start", held_out)
    training_rows = values[rows.training]
    assert score > 0.5
    assert score > start_score + 0.2
    assert score > by_pca(training_rows, held_out, k) + 0.1
    assert score > by_random_directions(training_rows, held_out, 4 * WIDTH, k) + (0.1 if "topk" in architecture else 0)


def test_batchtopk_finds_the_planted_directions(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    directions = np.linalg.qr(draw.normal(size=(WIDTH, WIDTH)))[0][:16]
    values = ((draw.random((12_000, 16)) < 0.1) * (1 + draw.random((12_000, 16)))) @ directions
    rows = as_training_rows(values.astype(np.float32))
    folder = trained(rows, tmp_path / "sae", width=32, k=1.6, n_rows=200_000)
    decoder = load_sae(folder).decoder
    decoder = decoder / np.linalg.norm(decoder, axis=1, keepdims=True)
    assert (directions @ decoder.T).max(1).min() > 0.9


class Killed(BaseException):
    """What no handler of ours catches."""


def killed_at(step: int, batch_size: int) -> Any:
    def progress(label: str, done: int, total: int) -> None:
        if done == step * batch_size:
            raise Killed

    return progress


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("architecture", ["batchtopk", "topk", "jumprelu", "standard"])
def test_killed_and_resumed_it_ends_with_the_same_bytes(tmp_path: Path, architecture: Any) -> None:
    rows, _ = planted_rows(3000)  # 10 batches an epoch, so that kills fall into several epochs
    options = {"architecture": architecture, "n_rows": 40 * 256}
    whole = files_of(trained(rows, tmp_path / "whole", **options))
    out = tmp_path / "killed"
    chosen = settings(**options, checkpoint_every_s=0)
    for step in (0, 1, 13, 14, 37):
        with pytest.raises(Killed):
            train_sae(rows, chosen, out=out, metadata=METADATA, progress=killed_at(step, 256))
        assert not (out / CONFIG).exists()
    assert max((out / WORK).glob("step-*")).name == "step-000000037"
    train_sae(rows, chosen, out=out, metadata=METADATA)
    assert files_of(out) == whole
    assert set(whole) == {CONFIG, WEIGHTS}


def test_a_kill_while_a_checkpoint_is_written_loses_that_checkpoint_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, _ = planted_rows(3000)
    options = {"n_rows": 20 * 256}
    whole = files_of(trained(rows, tmp_path / "whole", **options))
    out = tmp_path / "killed"
    write, n = training.save_trainer, 0

    def half(trainer: Any, folder: Path) -> None:
        nonlocal n
        n += 1
        write(trainer, folder)
        if n == 7:
            (folder / "trainer_state.pt").write_bytes(b"half")
            raise Killed

    monkeypatch.setattr(training, "save_trainer", half)
    with pytest.raises(Killed):
        trained(rows, out, **options, checkpoint_every_s=0)
    assert [path.name for path in (out / WORK).glob("step-*")] == ["step-000000006"]
    trained(rows, out, **options, checkpoint_every_s=0)
    assert files_of(out) == whole


def test_a_full_disk_is_said_and_the_training_goes_on_where_it_was(tmp_path: Path) -> None:
    """A limit on the size of files, as a full disk: the system refuses in the middle of a file."""
    rows, _ = planted_rows(3000)
    options = {"n_rows": 12 * 256}
    whole = files_of(trained(rows, tmp_path / "whole", **options))
    out = tmp_path / "sae"
    chosen = settings(**options, checkpoint_every_s=0)
    with pytest.raises(Killed):
        train_sae(rows, chosen, out=out, metadata=METADATA, progress=killed_at(5, 256))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        for every_s in (0, 60.0):  # a checkpoint, and the SAE itself at the end
            with pytest.raises(BudgetError, match=r"cannot be written: .*too large"):
                trained(rows, out, **options, checkpoint_every_s=every_s)
            assert [path.name for path in (out / WORK).iterdir() if path.is_dir()] == ["step-000000005"]
            assert not (out / CONFIG).exists()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    trained(rows, out, **options)
    assert files_of(out) == whole


def test_a_finished_training_is_not_done_again_and_another_is_refused(tmp_path: Path) -> None:
    rows, _ = planted_rows(3000)
    out = trained(rows, tmp_path / "sae", n_rows=2048)
    before = (out / WEIGHTS).stat().st_mtime_ns
    trained(rows, out, n_rows=2048)
    assert (out / WEIGHTS).stat().st_mtime_ns == before
    with pytest.raises(UsageError, match="something else"):
        trained(rows, out, n_rows=2048, seed=1)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="something else"):
        trained(rows, tmp_path / "full", n_rows=2048)


def test_checkpoints_of_other_settings_or_rows_are_refused_and_kept(tmp_path: Path) -> None:
    rows, values = planted_rows(3000)
    out = tmp_path / "sae"
    with pytest.raises(Killed):
        train_sae(rows, settings(checkpoint_every_s=0), out=out, metadata=METADATA, progress=killed_at(3, 256))
    with pytest.raises(UsageError, match="other rows or settings"):
        trained(rows, out, lr=1e-3)
    with pytest.raises(UsageError, match="other rows or settings"):
        trained(as_training_rows(values[:2000]), out)
    assert (out / WORK / "step-000000003").is_dir()


def test_a_damaged_checkpoint_is_named_and_no_code_in_it_runs(tmp_path: Path) -> None:
    rows, _ = planted_rows(3000)
    out = tmp_path / "sae"
    with pytest.raises(Killed):
        train_sae(rows, settings(checkpoint_every_s=0), out=out, metadata=METADATA, progress=killed_at(3, 256))
    marker = tmp_path / "ran"

    class Bomb:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(marker),))

    torch.save({"optimizer": Bomb()}, out / WORK / "step-000000003" / "trainer_state.pt")
    with pytest.raises(DamagedError, match="checkpoint"):
        trained(rows, out)
    assert not marker.exists()


def test_two_trainings_into_one_folder(tmp_path: Path) -> None:
    rows, _ = planted_rows(3000)
    out = tmp_path / "sae"
    (out / WORK).mkdir(parents=True)
    held = lock_file(out / WORK / "LOCK")
    try:
        with pytest.raises(BusyError):
            trained(rows, out)
    finally:
        os.close(held)


def test_the_configuration_says_what_the_sae_was_trained_on(tmp_path: Path) -> None:
    rows, _ = planted_rows(3000)
    folder = trained(rows, tmp_path / "sae", n_rows=2048)
    config = json.loads((folder / CONFIG).read_text())
    assert config["architecture"] == "jumprelu"  # sae-lens' form of a trained BatchTopK
    assert config["normalize_activations"] == "none"  # folded in
    assert config["metadata"].items() >= METADATA.items()
    assert config["metadata"]["steercache"]["settings"]["seed"] == 0
    spec = load_sae(folder).spec
    assert (spec.site, spec.layer, spec.model_name, spec.prepend_bos) == ("resid_post", 1, "tiny", False)
    assert (spec.d_in, spec.d_sae) == (WIDTH, 4 * WIDTH)


def test_training_leaves_the_random_state_of_the_process_alone(tmp_path: Path) -> None:
    rows, _ = planted_rows(3000)
    before = torch.random.get_rng_state()
    trained(rows, tmp_path / "sae", n_rows=2048)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_all_problems_of_settings_are_named() -> None:
    with pytest.raises(UsageError) as caught:
        TrainingSettings(width="wide", batch_size=0, lr=0, held_out=1, warm_up=0.5, decay=0.6)
    for word in ("width", "batch_size", "lr", "held_out", "decay"):
        assert word in str(caught.value)
    with pytest.raises(UsageError, match="k 200"):
        TrainingSettings(k=200).n_features(WIDTH)
    with pytest.raises(UsageError, match="do not fill a batch"):
        TrainingSettings(batch_size=512).n_steps(500)
    assert PLANTED > WIDTH
