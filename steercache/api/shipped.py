"""The models that ship with steercache: their names and measured scores, their cards, their checkpoint folders."""

from dataclasses import dataclass, field
from pathlib import Path

from steercache import zoo
from steercache.core.errors import NotFoundError


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


def model_card(name: str) -> str:
    """The model card (Markdown) of a shipped model. Raises NotFoundError."""
    try:
        return zoo.card(name)
    except FileNotFoundError as error:
        raise _not_trained(name) from error


def build_model(name: str, folder: Path) -> Path:
    """Write the complete checkpoint folder of a shipped model, and return it.

    Raises:
        NotFoundError: no such model. UsageError: `folder` holds something else. MissingExtraError: a package is missing.
    """
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
