"""`steercache report colours`: probabilities of colour words against alpha, for a vector on the image tokens."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from steercache.cli.completion import complete_models, complete_vectors
from steercache.cli.options import (
    batch_options,
    device_options,
    fitted_unit_option,
    json_option,
    parse_alphas,
    picture_option,
    random_option,
    root_option,
    takes,
    target_option,
)
from steercache.cli.output import next_commands, note, print_json, print_table, progress_bar
from steercache.cli.verdicts import curve_verdict
from steercache.core.errors import PartlyFailedError, UsageError
from steercache.core.trials import AlphaUnit

if TYPE_CHECKING:
    from steercache.analysis.colours import ColourEffect
    from steercache.api.cache import Cache
    from steercache.core.vectors import SteeringVector


@dataclass(frozen=True, slots=True, kw_only=True)
class ColourCommandOptions:
    """Options of `steercache report colours`."""

    model: str
    vector: str | None
    sae: str | None
    feature: int | None
    word: str | None
    layer: int | None
    alphas: str | None
    alpha_unit: AlphaUnit
    target: Literal["image", "text", "both"]
    n: int
    n_random: int
    open_question: bool
    shifted: bool
    tokens_per_batch: int
    memory_mib: int
    seed: int
    allow_foreign: bool
    out: Path | None
    root: Path
    device: str
    dtype: str
    as_json: bool


@click.command("colours")
@click.argument("model", shell_complete=complete_models)
@click.option("--vector", shell_complete=complete_vectors, help="Vector of a colour, by name, id or prefix.")
@click.option(
    "--sae", help="Instead of a vector, a feature of this SAE: a manifest, NAME-l12, or a folder of sae-lens."
)
@click.option(
    "--feature",
    type=click.IntRange(0),
    help="With --sae: the feature; by default the one that a fit picked for --word.",
)
@click.option("--word", help="Word of the colour; by default the concept of the vector.")
@click.option(
    "--layer", type=int, help="Decoder block (from 0) to whose output the vector is added; by default the SAE's."
)
@click.option(
    "--alpha",
    "alphas",
    help="Strengths, such as 1,2,4; by default up to four times the length of a target token's row.",
)
@fitted_unit_option
@target_option
@click.option("--n", type=click.IntRange(1), default=48, show_default=True, help="Number of questions.")
@random_option
@click.option("--open", "open_question", is_flag=True, help="Ask the questions without choices.")
@click.option("--shifted", is_flag=True, help="Use the scenes with other outlines, palettes and backgrounds.")
@batch_options(memory_mib=1024)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of random directions and intervals."
)
@click.option("--allow-foreign", is_flag=True, help="Accept a vector that was fitted on other or unknown weights.")
@picture_option
@root_option
@device_options
@json_option
@takes(ColourCommandOptions)
def colours_command(asked: ColourCommandOptions) -> None:
    """Measure how the vector of a colour, added to image tokens, changes MODEL's answers about colours of drawn shapes.

    The right answer is always another colour. Every probability is stored as a trial; only the search split of `scenes` is
    used.
    The vector comes from the backbone: steercache build smollm2-colours; steercache fit mean-shift --query
    concept_vs_other_concepts --concept red.

    \b
    steercache report colours demo --vector red --layer 12 --out colours.png
    steercache report colours demo --sae my-sae --feature 123 --word red
    """
    from steercache.api.analyses import ColourOptions, colours
    from steercache.api.cache import open_cache_at

    cache = open_cache_at(asked.root)
    vector = _vector(cache, asked)
    options = ColourOptions(
        layer=vector.layers[0] if asked.layer is None else asked.layer,
        alphas=tuple(a for a in parse_alphas(asked.alphas or "") if a != 0),
        target=asked.target,
        alpha_unit=asked.alpha_unit,
        word=asked.word,
        n=asked.n,
        n_random=asked.n_random,
        open_question=asked.open_question,
        tokens_per_batch=asked.tokens_per_batch,
        memory_mib=asked.memory_mib,
        seed=asked.seed,
        allow_foreign=asked.allow_foreign,
    )
    with progress_bar("reading questions", total=None, unit="", quiet=asked.as_json) as bar:
        found = colours(
            cache.session,
            asked.model,
            vector,
            options,
            shifted=asked.shifted,
            device=asked.device,
            dtype=asked.dtype,
            progress=bar.show,
        )
    _show(found, asked)
    if found.failures:
        raise PartlyFailedError(f"{len(found.failures)} questions failed; the first: {found.failures[0]}")


def _vector(cache: "Cache", asked: ColourCommandOptions) -> "SteeringVector":
    if (asked.vector is None) == (asked.sae is None):
        raise UsageError("a vector or a feature of an SAE is needed", hint="--vector NAME, or --sae NAME")
    if asked.sae is not None:
        if asked.word is None:
            raise UsageError("a feature of an SAE names no colour", hint="--word red")
        return cache.feature_vector(asked.sae, asked.feature, concept=asked.word, layer=asked.layer)
    assert asked.vector is not None
    if asked.layer is None:
        raise UsageError("the layer is missing", hint="--layer 12")
    return cache.vector(asked.vector)


def _show(found: "ColourEffect", asked: ColourCommandOptions) -> None:
    from steercache.api.pictures import draw

    path = asked.out or asked.root / "pictures" / f"colours-{found.model}-{found.vector}-{found.layer}.png"
    if not asked.as_json:
        _print(found)
    draw(found, path)
    if asked.as_json:
        shown = {f.name: getattr(found, f.name) for f in fields(found) if f.name != "effect"}
        print_json({"picture": str(path), **shown})
    else:
        click.echo(str(path))
        next_commands(f"steercache query words_by_alpha -p sweep={found.sweep_id} -p controls=false")


def _print(found: "ColourEffect") -> None:
    rows = [
        [
            f"{p.alpha:g}",
            p.named.mass,
            f"{p.named.low:.3f} to {p.named.high:.3f}",
            f"{p.named.random_low:.3f} to {p.named.random_high:.3f}",
            p.right.mass,
            p.any_word.mass,
            p.any_word.random_mean,
        ]
        for p in found.points
    ]
    title = (
        f"{found.vector} on the {found.target} tokens at layer {found.layer} of {found.model}: {found.n} questions of"
        f" {found.benchmark}; at alpha 1 it is {found.unit_share:.2g} of a median row"
    )
    columns = ["alpha", found.word, "95 %", "random", "right colour", "any colour word", "any, random"]
    print_table(columns, rows, title=title)
    click.echo(found_in(found))
    if found.lineage in ("foreign", "unknown"):
        note(f"{found.vector}: a vector of {found.lineage} lineage")
    if not found.n_computed:
        click.echo(f"0 computed: all {len(found.effect.answers):,} answers are in the cache")
    if found.left_out:
        note(f"several tokens, so not scored: {', '.join(found.left_out)}")


def found_in(found: "ColourEffect") -> str:
    """What the curves show, whether or not it is an effect."""
    plain = next(p for p in found.points if p.alpha == 0)
    best = max((p for p in found.points if p.alpha != 0), key=lambda p: p.named.mass)
    said = f"“{found.word}” {plain.named.mass:.3f} -> {best.named.mass:.3f} at alpha {best.alpha:g}, its best"
    raised = best.named.mass > plain.named.mass
    return f"{curve_verdict(said, raised=raised, p_best=found.p_best, n=found.n_random)}; {_broken(found)}."


def _broken(found: "ColourEffect") -> str:
    """What excessive strength destroys: the colour words as a whole, or the vector's own word alone."""
    if found.breaks_at is not None:
        whole = f"from alpha {found.breaks_at:g} on less than half of the colour words' probability is left"
    elif found.named_lost_at is not None:
        whole = "colour words together keep at least half of their mass"
    else:
        whole = "no strength tried breaks the answers down"
    if found.named_lost_at is None:
        return whole
    return f"“{found.word}” itself is lost from alpha {found.named_lost_at:g} on (below its unsteered probability); {whole}"
