"""`steercache report words`: the probability that a concept's words come next, for a vector on plain prompts."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from steercache.cli.completion import complete_models, complete_vectors
from steercache.cli.options import (
    RenamedOption,
    allow_foreign_option,
    device_options,
    fitted_unit_option,
    json_option,
    parse_alphas,
    picture_option,
    random_option,
    root_option,
    takes,
    words,
)
from steercache.cli.output import next_commands, note, print_json, print_table, progress_bar
from steercache.cli.verdicts import curve_verdict
from steercache.core.trials import AlphaUnit

if TYPE_CHECKING:
    from steercache.core.vectors import SteeringVector
    from steercache.steering.effects import WordMass
    from steercache.steering.mass_curves import MassAtAlpha


@dataclass(frozen=True, slots=True, kw_only=True)
class WordOptions:
    """Which words are followed under which vector, as typed."""

    vector: str
    layer: int
    alphas: str
    alpha_unit: AlphaUnit
    target: Literal["all", "text", "last"]
    listed: str | None
    prompts: tuple[str, ...]
    n_random: int
    seed: int
    model: str | None
    allow_foreign: bool
    out: Path | None
    root: Path
    device: str
    dtype: str
    as_json: bool


@click.command("words")
@click.argument("vector", shell_complete=complete_vectors)
@click.option("--layer", type=int, required=True, help="Decoder block (from 0) to whose output the vector is added.")
@click.option("--alpha", "alphas", default="0.5,1,2,4", show_default=True, help="Strengths, such as 1,2,4.")
@fitted_unit_option
@click.option(
    "--target",
    cls=RenamedOption,
    former=["--tokens"],
    type=click.Choice(["all", "text", "last"]),
    default="text",
    show_default=True,
    help="Tokens that are steered.",
)
@click.option("--words", "listed", help="Words to count, such as one,two; by default those listed for the concept.")
@click.option("--prompt", "prompts", multiple=True, help="Prompt, repeatable; by default 16 neutral prompts.")
@random_option
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the random directions.")
@click.option(
    "--model",
    shell_complete=complete_models,
    help="Model manifest, by name or file; by default that of the vector's run.",
)
@allow_foreign_option
@picture_option
@root_option
@device_options
@json_option
@takes(WordOptions)
def words_command(asked: WordOptions) -> None:
    """Measure how VECTOR changes the probability that the next word belongs to its concept.

    The first token of the prompts, the attention sink, is not steered (as with `steer --skip-first`). Random directions of the
    same norm are measured beside the vector. Every probability is stored as a trial.

    \b
    steercache report words counting --layer 6 --alpha 1,2,4
    """
    from steercache.api import analyses
    from steercache.api.cache import open_cache_at
    from steercache.api.pictures import draw

    alphas = parse_alphas(asked.alphas)
    cache = open_cache_at(asked.root)
    vector = cache.vector(asked.vector)
    plan = analyses.word_plan(
        vector,
        layer=asked.layer,
        alphas=alphas,
        alpha_unit=asked.alpha_unit,
        target=asked.target,
        words=words(asked.listed or ""),
        prompts=asked.prompts,
        n_random=asked.n_random,
        seed=asked.seed,
    )
    with progress_bar("reading the model", total=None, unit="", quiet=asked.as_json) as bar:
        found = analyses.words(
            cache.session,
            vector,
            plan,
            model=asked.model,
            device=asked.device,
            dtype=asked.dtype,
            allow_foreign=asked.allow_foreign,
            progress=bar.show,
        )
    effect, sweep_id = found.effect, found.sweep_id
    points = analyses.summarise(effect)
    path = draw(effect, asked.out or asked.root / "pictures" / f"words-{vector.name}-{plan.layer}.png")
    if asked.as_json:
        print_json({"sweep_id": sweep_id, "picture": str(path), "left_out": effect.left_out, "points": points})
        return
    _print(vector, effect, points)
    if found.from_cache:
        click.echo(f"0 computed: all {len(effect.answers):,} answers are in the cache")
    click.echo(str(path))
    next_commands(f"steercache query words_by_alpha -p {shlex.quote(f'sweep=words-{vector.name}')} -p controls=false")


def _print(vector: "SteeringVector", effect: "WordMass", points: "tuple[MassAtAlpha, ...]") -> None:
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


def found_in(effect: "WordMass", points: "tuple[MassAtAlpha, ...]") -> str:
    """What the curve shows at its highest point, beside the random directions at theirs: whether or not it is an effect."""
    from steercache.api.analyses import rank_of_best

    plain, *steered = points
    best = max(steered, key=lambda p: p.mass)
    interval = f" [{best.low:.3g}, {best.high:.3g}]" if effect.n_inputs > 1 else ""
    moved = f"{plain.mass:.3g} -> {best.mass:.3g}{interval} at alpha {best.alpha:g}, its best"
    rank = rank_of_best(effect.mass_vap[:, 1:])
    return curve_verdict(moved, raised=best.mass > plain.mass, p_best=rank, n=len(effect.vectors) - 1)
