"""`steercache report words`: the probability that a concept's words come next, for a vector on plain prompts."""

import shlex
from functools import partial
from pathlib import Path
from typing import Any

import click

from steercache.answers.store import stored_scores
from steercache.cache.sweeps import save_sweep, sweep_id_of
from steercache.cells.vector_model import load_model_of, model_without_weights_of
from steercache.cli.options import (
    allow_foreign_option,
    device_options,
    fitted_unit_option,
    json_option,
    picture_option,
    root_option,
    words,
)
from steercache.cli.output import next_commands, note, print_json, print_table, progress_bar
from steercache.cli.verdicts import beside_random
from steercache.core.errors import UsageError
from steercache.core.ids import digest
from steercache.core.vectors import SteeringVector
from steercache.models.ends import answer_identity
from steercache.models.spec import LoadedModel
from steercache.queries.session import open_session
from steercache.report.effect import effect_chart
from steercache.report.style import save_chart
from steercache.steering.effects import MassAtAlpha, WordMass, WordMassPlan, rank_of_best, summarise, word_mass_effect
from steercache.steering.effects_kept import kept_word_mass
from steercache.steering.neutral import PROMPTS, WORDS


@click.command("words")
@click.argument("vector")
@click.option("--layer", type=int, required=True, help="Block at whose output it is added.")
@click.option("--alpha", "alphas", default="0.5,1,2,4", show_default=True, help="Strengths.")
@fitted_unit_option
@click.option(
    "--tokens", type=click.Choice(["all", "text", "last"]), default="text", show_default=True, help="Which are steered."
)
@click.option("--words", "listed", help="Words to count, such as one,two; by default those listed for the concept.")
@click.option("--prompt", "prompts", multiple=True, help="A text to read on; by default 16 that lean to no concept.")
@click.option("--random", "n_random", type=click.IntRange(0), default=20, show_default=True, help="Random directions.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the random directions.")
@click.option("--model", help="Model manifest, by name or file; by default that of the vector's run.")
@allow_foreign_option
@picture_option
@root_option
@device_options
@json_option
def words_command(vector: str, root: Path, **asked: Any) -> None:
    """Add VECTOR to plain prompts and follow the probability that one of its concept's words comes next.

    The prompts' first token, the attention sink, is left alone (`steer --skip-first` does the same). Beside the vector,
    random directions of equal norm. Every probability is kept as a trial.

    \b
    steercache report words counting --layer 6 --alpha 1,2,4
    """
    session = open_session(root)
    direction = session.vector(vector)
    plan = _plan(direction, asked)
    given = {"dtype": asked["dtype"], "allow_foreign": asked["allow_foreign"]}
    model = model_without_weights_of(session.cache, direction, asked["model"], **given)
    effect = kept_word_mass(model, direction, plan, scores=partial(stored_scores, session.cache))
    kept = effect is not None
    if effect is None:
        with progress_bar("reading the model", total=None, unit="", quiet=asked["as_json"]) as bar:
            model = load_model_of(session.cache, direction, asked["model"], device=asked["device"], **given)
            effect = word_mass_effect(model, direction, plan, progress=bar.show)
        for random in effect.vectors[1:]:
            session.save(random)
    name, manifest = f"words-{direction.name}", _manifest(model, direction, effect)
    sweep_id = sweep_id_of(name, manifest)
    if not kept or not session.cache.paths.sweep(sweep_id).is_dir():
        save_sweep(session.cache, name, manifest=manifest, cells=effect.cells, answers=effect.answers)
    points = summarise(effect)
    path = asked["out"] or root / "pictures" / f"words-{direction.name}-{plan.layer}.png"
    save_chart(effect_chart(effect), path)
    if asked["as_json"]:
        print_json({"sweep_id": sweep_id, "picture": str(path), "left_out": effect.left_out, "points": points})
        return
    _print(direction, effect, points)
    if kept:
        note(f"0 computed: all {len(effect.answers):,} answers are in the cache")
    click.echo(str(path))
    next_commands(
        f"steercache query words_by_alpha -p {shlex.quote(f'sweep=words-{direction.name}')} -p controls=false"
    )


def _manifest(model: LoadedModel, vector: SteeringVector, effect: WordMass) -> dict[str, Any]:
    return {
        "kind": "word_mass",
        "model": answer_identity(model),
        "vector": vector.vector_id,
        "cells": digest(sorted(cell.cell_id for cell in effect.cells)),
        **effect.plan.manifest(),
    }


def _plan(vector: SteeringVector, asked: dict[str, Any]) -> WordMassPlan:
    try:
        alphas = tuple(dict.fromkeys(float(part) for part in words(asked["alphas"])))
    except ValueError:
        raise UsageError(f"{asked['alphas']!r} is no list of numbers", hint="--alpha 1,2,4") from None
    alphas = tuple(a for a in alphas if a != 0)  # the model itself is always there
    if not alphas:
        raise UsageError("no strength but 0, which is the model itself", hint="--alpha 1,2,4")
    listed = tuple(words(asked["listed"] or "")) or WORDS.get(vector.concept or "", ())
    if not listed:
        raise UsageError(
            f"no words are listed for {vector.concept or vector.name!r}", hint="--words one,two,three names them"
        )
    return WordMassPlan(
        words=listed,
        prompts=asked["prompts"] or PROMPTS,
        layer=asked["layer"],
        alphas=alphas,
        target=asked["tokens"],
        alpha_unit=asked["unit"],
        n_random=asked["n_random"],
        seed=asked["seed"],
    )


def _print(vector: SteeringVector, effect: WordMass, points: tuple[MassAtAlpha, ...]) -> None:
    beside = bool(effect.plan.n_random)
    rows = [
        [
            f"{p.alpha:g}",
            p.mass,
            f"{p.low:.3g} to {p.high:.3g}" if effect.n_inputs > 1 else "-",
            f"{p.random_low:.3g} to {p.random_high:.3g}" if beside else "-",
            p.p_random if beside and p.alpha != 0 else None,
        ]
        for p in sorted(points, key=lambda p: p.alpha)
    ]
    plan = effect.plan
    title = f"{vector.name}, layer {plan.layer}, {plan.target} tokens but the first, {effect.n_inputs} prompts"
    print_table(["alpha", "words", "95 %", "random", "p"], rows, title=title)
    click.echo(found_in(effect, points))
    if effect.left_out:
        note(f"several tokens, so not counted: {', '.join(effect.left_out)}")


def found_in(effect: WordMass, points: tuple[MassAtAlpha, ...]) -> str:
    """What the curve shows at its highest point, beside the random directions at theirs: whether or not it is an effect."""
    plain, *steered = points
    best = max(steered, key=lambda p: p.mass)
    interval = f" [{best.low:.3g}, {best.high:.3g}]" if effect.n_inputs > 1 else ""
    moved = f"{plain.mass:.3g} -> {best.mass:.3g}{interval} at alpha {best.alpha:g}, its best"
    if best.mass <= plain.mass:
        return f"{moved}; no strength tried raises it"
    rank = rank_of_best(effect.mass_vap[:, 1:])
    return moved if rank is None else f"{moved}; {beside_random(rank, len(effect.vectors) - 1)}"
