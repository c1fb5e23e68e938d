"""`steercache steer`: text with and without a vector, side by side."""

import shlex
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from steercache.answers.store import stored_answers
from steercache.cache.handle import CacheFolder, open_cache
from steercache.cache.sweeps import save_sweep
from steercache.cache.vectors import load_vector
from steercache.cells.vector_model import load_model_of, model_without_weights_of
from steercache.cli.options import allow_foreign_option, device_options, fitted_unit_option, json_option, root_option
from steercache.cli.output import next_commands, note, print_json, print_table, progress_bar
from steercache.core.activity import announce
from steercache.core.errors import UsageError
from steercache.core.trials import AlphaUnit
from steercache.core.vectors import SteeringVector
from steercache.models.ends import answer_identity
from steercache.steering.generate import SideBySide, SteeringSetting, generate_side_by_side
from steercache.steering.live import When
from steercache.steering.texts_kept import kept_texts, text_answers, text_cells


@click.command()
@click.argument("vector")
@click.argument("prompts", nargs=-1, required=True)
@click.option("--layer", type=int, required=True, help="Block at whose output the vector is added.")
@click.option("--alpha", "alphas", default="1", show_default=True, help="Strengths, such as 1,2,4.")
@fitted_unit_option
@click.option(
    "--tokens",
    type=click.Choice(["all", "text", "last", "image", "both"]),
    default="all",
    show_default=True,
    help="Which tokens; padding never. text leaves special tokens and the prompt's last one out.",
)
@click.option(
    "--when",
    type=click.Choice(["prefill", "every"]),
    default="prefill",
    show_default=True,
    help="Steer the prompt's tokens only, or every generated token too.",
)
@click.option("--skip-first", is_flag=True, help="Leave the first token out (the attention sink).")
@click.option(
    "--max-new-tokens", type=click.IntRange(1, 4096), default=20, show_default=True, help="Tokens of a continuation."
)
@click.option("--chat", is_flag=True, help="Put each prompt into the model's chat template.")
@click.option(
    "--model",
    "model_name",
    help="Model manifest, by name or file; by default that of the vector's run.",
)
@allow_foreign_option
@root_option
@device_options
@json_option
def steer(vector: str, prompts: Sequence[str], root: Path, **asked: Any) -> None:
    """Continue PROMPTS greedily with and without VECTOR (a name, an id or a prefix).

    Texts are kept as the answers of a sweep; the same command again reads them.

    \b
    steercache steer counting "On the way home we saw" --layer 6 --alpha 1,2,4
    """
    cache = open_cache(root)
    direction = load_vector(cache, vector)
    settings = _settings(asked)
    texts, kept = _texts(cache, direction, prompts, settings, asked)
    if asked["as_json"]:
        print_json(texts)
        return
    for text in texts:
        columns = ["alpha", f"{direction.name}, layer {asked['layer']}, {asked['tokens']} tokens, {asked['when']}"]
        print_table(
            columns,
            [[f"{c.alpha:g}", c.text if c.error is None else f"(failed: {c.error})"] for c in text.continuations],
            title=text.prompt,
        )
        click.echo()
    if kept:
        note("0 computed: all these texts are in the cache")
    next_commands(f"steercache vectors show {shlex.quote(direction.name)}")


def _texts(
    cache: CacheFolder,
    vector: SteeringVector,
    prompts: Sequence[str],
    settings: Sequence[SteeringSetting],
    asked: dict[str, Any],
) -> tuple[list[SideBySide], bool]:
    """What is written, and whether an earlier run wrote it; new texts are kept as the answers of a sweep."""
    given = {"dtype": asked["dtype"], "allow_foreign": asked["allow_foreign"]}
    how = {"max_new_tokens": asked["max_new_tokens"], "chat": asked["chat"]}
    model = model_without_weights_of(cache, vector, asked["model_name"], **given)
    cells = text_cells(model, vector, prompts, settings=settings, **how)

    def stored(cell_ids: Sequence[str]) -> dict[tuple[str, str], str]:
        return {key: one.raw for key, one in stored_answers(cache, cell_ids).items()}

    kept = kept_texts(model, prompts, cells, stored=stored, chat=asked["chat"])
    if kept is not None:
        return kept, True
    with progress_bar("reading the model", total=None, unit="", quiet=asked["as_json"]):
        loaded = load_model_of(cache, vector, asked["model_name"], device=asked["device"], **given)
        announce(f"writing {len(prompts) * len(settings)} texts")
        texts = generate_side_by_side(loaded, vector, prompts, settings=settings, **how)
    manifest = {
        "kind": "steer",
        "model": answer_identity(loaded),
        "vector": vector.vector_id,
        "prompts": list(prompts),
        "cells": [cell.cell_id for cell in cells],
    }
    with suppress(OSError):  # a cache that cannot be written shows its texts all the same
        answers = text_answers(model, texts, cells, chat=asked["chat"])
        save_sweep(cache, f"steer-{vector.name}", manifest=manifest, cells=cells, answers=answers)
    return texts, False


def _settings(asked: dict[str, Any]) -> tuple[SteeringSetting, ...]:
    """The unsteered text first, then every alpha."""
    try:
        alphas = [float(part) for part in asked["alphas"].split(",")]
    except ValueError:
        raise UsageError(f"{asked['alphas']!r} is no list of numbers", hint="--alpha 1,2,4") from None
    unit: AlphaUnit = asked["unit"]
    when: When = asked["when"]
    return tuple(
        SteeringSetting(
            layer=asked["layer"],
            alpha=alpha,
            alpha_unit=unit,
            target=asked["tokens"],
            when=when,
            skip_first=asked["skip_first"],
        )
        for alpha in dict.fromkeys((0.0, *alphas))
    )
