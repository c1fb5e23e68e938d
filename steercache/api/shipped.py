"""What ships with steercache: models and SAEs, with their measured scores, their cards and their folders."""

from dataclasses import dataclass, field
from pathlib import Path

from steercache import zoo
from steercache.core.errors import NotFoundError
from steercache.zoo.saes import copy_sae, sae_card, sae_health, sae_names


@dataclass(frozen=True, slots=True, kw_only=True)
class ShippedModel:
    """One shipped model. `accuracy` by task and form of the answer ("Relation/word"), empty where nothing was measured;
    `accuracy_shuffled` is that of Relation/word with pictures exchanged between questions."""

    name: str
    reads: str
    accuracy: dict[str, float] = field(default_factory=dict)
    accuracy_shuffled: float | None = None


def shipped_models() -> list[ShippedModel]:
    """Every shipped model with what it was measured to do."""
    return [_measured(name) for name in zoo.names()]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShippedSae:
    """One shipped SAE, and what was measured on text that it was not trained on."""

    name: str
    model: str
    layer: int
    n_features: int
    explained_variance: float
    l0: float


def shipped_saes() -> list[ShippedSae]:
    """Every shipped SAE with its health on held-out text."""
    found = []
    for name in sae_names():
        measured = sae_health(name)
        facts = {key: measured[key] for key in ("model", "layer", "n_features")}
        text = measured["held_out"]["text"]
        found.append(ShippedSae(name=name, **facts, explained_variance=text["explained_variance"], l0=text["l0_mean"]))
    return found


def model_card(name: str) -> str:
    """The card (Markdown) of a shipped model or SAE. Raises NotFoundError."""
    if name in sae_names():
        return sae_card(name)
    try:
        return zoo.card(name)
    except FileNotFoundError as error:
        raise _not_trained(name) from error


def build_model(name: str, folder: Path) -> Path:
    """Write the complete checkpoint folder of a shipped model, or the folder of a shipped SAE, and return it.

    Raises:
        NotFoundError: no such model. UsageError: `folder` holds something else. MissingExtraError: a package is missing.
    """
    if name in sae_names():
        return copy_sae(name, folder)
    try:
        return zoo.build(name, folder)
    except FileNotFoundError as error:
        raise _not_trained(name) from error


def _measured(name: str) -> ShippedModel:
    if name.endswith("-backbone"):
        return ShippedModel(name=name, reads="text")
    try:
        scores = zoo.scores(name)["scores"]
    except FileNotFoundError:
        return ShippedModel(name=name, reads="pictures and text")
    return ShippedModel(
        name=name,
        reads="pictures and text",
        accuracy={cell: score["accuracy"] for cell, score in scores["plain"].items()},
        accuracy_shuffled=scores["shuffled"].get("Relation/word", {}).get("accuracy"),
    )


def _not_trained(name: str) -> NotFoundError:
    return NotFoundError(
        f"the weights of {name!r} are not in this installation",
        hint=f"install the package again, or train it in the repository: python -m bench.zoo.train {name.split('-')[0]}",
    )
