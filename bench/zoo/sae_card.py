"""The card of the SAE that ships, written from its `health.json`: `python -m bench.zoo.sae_card FOLDER`."""

import json
import sys
from pathlib import Path
from typing import Any, Final

NAMES: Final = {"first": "first position (not trained on)", "template": "chat template (not trained on)"}
NAMES |= {"special": "special tokens (not trained on)"}

PROSE: Final = Path(__file__).with_suffix(".md")


def card(name: str, health: dict[str, Any]) -> str:
    """The card (Markdown)."""
    settings, loss = health["settings"], health["loss"]
    rows = [row for kind, row in health["held_out"].items() if kind != "all"]
    facts = {key: settings[key] for key in ("k", "width", "n_rows", "batch_size", "lr", "seed")}
    return PROSE.read_text(encoding="utf-8").format(
        name=name,
        n_features=health["n_features"],
        layer=health["layer"],
        n_training_rows=health["n_training_rows"],
        n_batches=health["n_batches"],
        share=settings["held_out"],
        n_epochs=settings["n_rows"] / health["n_training_rows"],
        n_texts=loss["n_texts"],
        table="\n".join(_row(row) for row in rows),
        recovered=100 * loss["recovered"],
        from_mean=100 * loss["from_mean"],
        **{key: loss[key] for key in ("clean", "reconstructed", "mean", "zero")},
        **facts,
    )


def _row(row: dict[str, Any]) -> str:
    explained = "-" if row["explained_variance"] is None else f"{row['explained_variance']:.3f}"
    measured = f"{explained} | {row['cosine']:.3f} | {row['l0_mean']:.1f} | {row['n_dead']:,} | {row['n_dense']:,}"
    return f"| {NAMES.get(row['kind'], row['kind'])} | {row['n_rows']:,} | {measured} |"


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    found = json.loads((folder / "health.json").read_text())
    (folder / "card.md").write_text(card(folder.resolve().name, found))
