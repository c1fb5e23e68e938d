"""sae-lens' own trainer, set up from our settings: its modules, losses, schedules and optimiser, and none of its logging."""

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from steercache.core.errors import DamagedError
from steercache.sae.library import sae_lens
from steercache.sae.sparse_step import sparse_class
from steercache.sae.training_settings import DEAD_AFTER_ROWS, TrainingSettings

MODULE: Final = "sae.safetensors"  # in a checkpoint, beside the file of sae-lens' trainer
NORMALIZED: Final = "expected_average_only_in"


def make_trainer(
    settings: TrainingSettings, *, width: int, n_steps: int, mean_norm: float, metadata: Mapping[str, Any], device: str
) -> Any:
    """A `SAETrainer` whose SAE starts from the seed. `mean_norm` of the training rows is what `normalize` divides by."""
    import torch

    library = sae_lens()
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        sae = _make_sae(library, settings, width=width, n_steps=n_steps, metadata=metadata)
    decay_steps = round(settings.decay * n_steps)
    config = SAETrainerConfig(
        total_training_samples=n_steps * settings.batch_size,
        train_batch_size_samples=settings.batch_size,
        lr=settings.lr,
        lr_end=settings.lr / 10,
        lr_scheduler_name="constant",
        lr_warm_up_steps=_warm_up_steps(settings, n_steps),
        lr_decay_steps=decay_steps,
        device=device,
        autocast=settings.bfloat16,
        dead_feature_window=max(1, DEAD_AFTER_ROWS // settings.batch_size),
        logger=LoggingConfig(log_to_wandb=False),
    )
    trainer = SAETrainer(config, sae.to(device=device), data_provider=iter(()))
    if settings.normalize:
        trainer.activation_scaler.scaling_factor = math.sqrt(width) / mean_norm
    return trainer


def train_step(trainer: Any, batch_nd: Any) -> None:
    """One step on a batch of raw activations, as `SAETrainer.fit` takes it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # schedulers of torch in sequence warn of their own calls
        trainer.step(batch_nd)
    trainer.n_training_steps += 1


def fold(trainer: Any) -> Any:
    """The trained SAE, with the scaling of activations folded into its weights: it reads raw activations from here on."""
    sae, scaler = trainer.sae.to(device="cpu"), trainer.activation_scaler
    if scaler.scaling_factor is not None:
        sae.fold_activation_norm_scaling_factor(scaler.scaling_factor)
        scaler.scaling_factor = None
    return sae


def save_trainer(trainer: Any, folder: Path) -> None:
    """Weights, optimiser, schedules, counters and scaling: all that the next step depends on beside the data."""
    from safetensors.torch import save_file

    save_file({name: tensor.contiguous() for name, tensor in trainer.sae.state_dict().items()}, folder / MODULE)
    trainer.save_trainer_state(folder)


def load_trainer(trainer: Any, folder: Path) -> None:
    """What `save_trainer` wrote. Reading runs no code (safetensors; torch with weights only).

    Raises:
        DamagedError: the files cannot be read, or are of another SAE.
    """
    from safetensors.torch import load_file

    try:
        trainer.sae.load_state_dict(load_file(folder / MODULE, device=str(trainer.cfg.device)))
        trainer.load_trainer_state(folder)
    except Exception as error:  # torch and safetensors raise what they like on a file from outside
        raise DamagedError(
            f"the checkpoint cannot be read: {error}", place=str(folder), hint="remove it: training begins again"
        ) from error


def _warm_up_steps(settings: TrainingSettings, n_steps: int) -> int:
    steps = round(settings.warm_up * n_steps)
    return steps if steps > 1 else 0  # sae-lens' schedule divides by steps - 1


def _make_sae(
    library: Any, settings: TrainingSettings, *, width: int, n_steps: int, metadata: Mapping[str, Any]
) -> Any:
    from sae_lens.saes.sae import SAEMetadata

    shared = {
        "d_in": width,
        "d_sae": settings.n_features(width),
        "normalize_activations": NORMALIZED if settings.normalize else "none",
        "metadata": SAEMetadata(**metadata),
    }
    given = settings.sparsity_coefficient
    if settings.architecture == "topk":
        return sparse_class("topk")(library.TopKTrainingSAEConfig(**shared, k=int(settings.k)))
    if settings.architecture == "batchtopk":  # the threshold's running mean must settle within a short training too
        rate = min(0.5, max(0.01, 10 / n_steps))
        return sparse_class("batchtopk")(
            library.BatchTopKTrainingSAEConfig(**shared, k=float(settings.k), topk_threshold_lr=rate)
        )
    if settings.architecture == "jumprelu":
        options = {"jumprelu_sparsity_loss_mode": "quadratic", "target_l0": settings.k}
        options |= {} if given is None else {"l0_coefficient": given}
        options["l0_warm_up_steps"] = round(0.2 * n_steps)
        return library.JumpReLUTrainingSAE(library.JumpReLUTrainingSAEConfig(**shared, **options))
    options = {"l1_warm_up_steps": round(0.2 * n_steps)} | ({} if given is None else {"l1_coefficient": given})
    return library.StandardTrainingSAE(library.StandardTrainingSAEConfig(**shared, **options))
