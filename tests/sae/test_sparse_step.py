"""The sparse training step against sae-lens' own dense one: losses, gradients, thresholds, weights after many steps."""

from typing import Any

import numpy as np
import pytest
import sae_lens
import torch
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.saes.sae import TrainStepInput
from sae_lens.training.sae_trainer import SAETrainer

from steercache.sae.sparse_step import pick_of_batch, pick_of_rows, sparse_class

WIDTH, FEATURES, N = 20, 64, 50
CLASSES = {
    "topk": (sae_lens.TopKTrainingSAE, sae_lens.TopKTrainingSAEConfig),
    "batchtopk": (sae_lens.BatchTopKTrainingSAE, sae_lens.BatchTopKTrainingSAEConfig),
}


def both(architecture: str, *, k: float = 5) -> tuple[Any, Any]:
    """A dense and a sparse module of equal random weights, in float64 so that rounding cannot hide an error."""
    dense_class, config_class = CLASSES[architecture]
    made = []
    for kind in (dense_class, sparse_class(architecture)):
        module = kind(config_class(d_in=WIDTH, d_sae=FEATURES, k=k, dtype="float64"))
        draw = torch.Generator().manual_seed(0)
        for tensor in module.parameters():
            tensor.data = torch.randn(tensor.shape, generator=draw, dtype=torch.float64) * 0.5
        made.append(module)
    return made[0], made[1]


def rows(seed: int = 1) -> torch.Tensor:
    return torch.randn((N, WIDTH), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("n_dead", [0, 4, 30])  # none, fewer than half the width, more
@pytest.mark.parametrize("architecture", ["topk", "batchtopk"])
def test_losses_and_gradients_are_those_of_sae_lens(architecture: str, n_dead: int) -> None:
    dead = torch.zeros(FEATURES, dtype=torch.bool)
    dead[torch.randperm(FEATURES, generator=torch.Generator().manual_seed(3))[:n_dead]] = True
    found = []
    for module in both(architecture):
        given = TrainStepInput(
            sae_in=rows(), coefficients={}, dead_neuron_mask=dead, n_training_steps=0, is_logging_step=False
        )
        out = module.training_forward_pass(given)
        out.loss.backward()
        found.append((module, out))
    (dense, expected), (sparse, got) = found
    assert got.losses["mse_loss"].item() == pytest.approx(expected.losses["mse_loss"].item(), rel=1e-10)
    aux = "auxiliary_reconstruction_loss"
    assert got.losses[aux].item() == pytest.approx(expected.losses[aux].item(), rel=1e-10)
    assert (expected.losses[aux].item() > 0) == (n_dead > 0)
    torch.testing.assert_close(got.sae_out, expected.sae_out)
    torch.testing.assert_close(got.feature_acts.to_dense(), expected.feature_acts)
    for name, tensor in dense.named_parameters():
        torch.testing.assert_close(dict(sparse.named_parameters())[name].grad, tensor.grad, msg=name)
    if architecture == "batchtopk":
        torch.testing.assert_close(sparse.topk_threshold, dense.topk_threshold)


@pytest.mark.parametrize("architecture", ["topk", "batchtopk"])
def test_weights_after_many_steps_of_sae_lens_trainer_are_the_same(architecture: str) -> None:
    trainers = []
    for module in both(architecture):
        config = SAETrainerConfig(
            total_training_samples=60 * N,
            train_batch_size_samples=N,
            lr=1e-3,
            lr_end=1e-4,
            dead_feature_window=5,  # so that some features are dead on the way
            logger=LoggingConfig(log_to_wandb=False),
        )
        trainer = SAETrainer(config, module, iter(()))
        deaths = 0
        for step in range(60):
            trainer.step(rows(step))
            trainer.n_training_steps += 1
            deaths += int(trainer.dead_neurons.sum())
        trainers.append((trainer, deaths))
    (dense, deaths), (sparse, same_deaths) = trainers
    assert deaths == same_deaths
    for name, tensor in dense.sae.state_dict().items():
        torch.testing.assert_close(sparse.sae.state_dict()[name], tensor, rtol=1e-6, atol=1e-8, msg=name)
    torch.testing.assert_close(sparse.act_freq_scores, dense.act_freq_scores)
    torch.testing.assert_close(sparse.n_forward_passes_since_fired, dense.n_forward_passes_since_fired)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 1.2, 50.0])
def test_what_is_picked_does_not_depend_on_the_guess(threshold: float) -> None:
    scores = torch.randn((30, 40), generator=torch.Generator().manual_seed(0))
    order = np.argsort(-scores.numpy().ravel())
    np.testing.assert_array_equal(pick_of_batch(scores, 90, threshold).numpy(), np.sort(order[:90]))
    few = scores - 2.5  # fewer positive scores than are asked for
    positive = np.flatnonzero(few.numpy().ravel() > 0)
    assert 0 < len(positive) < 90
    np.testing.assert_array_equal(pick_of_batch(few, 90, threshold).numpy(), positive)


def test_rows_keep_their_k_largest_positive_scores() -> None:
    scores = torch.randn((30, 40), generator=torch.Generator().manual_seed(0)) - 1
    expected = []
    for i, row in enumerate(scores.numpy()):
        expected += [i * 40 + int(j) for j in sorted(np.argsort(-row)[:7]) if row[j] > 0]
    assert pick_of_rows(scores, 7).tolist() == expected
