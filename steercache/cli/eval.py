"""`steercache eval`: a benchmark's table, with intervals, controls and every answer kept."""

from typing import Any, get_args

import click

from steercache.benchmarks.task import default_targets
from steercache.cache.handle import open_cache
from steercache.cells.arms import EvalOptions
from steercache.cells.controls import CONTROL_KINDS
from steercache.cells.model import find_model
from steercache.cells.vectors import by_methods
from steercache.cli.fit import parse_layers
from steercache.cli.options import (
    among,
    batch_options,
    device_options,
    json_option,
    mode_options,
    question_options,
    root_option,
    rule_option,
    split_option,
    unit_option,
    words,
)
from steercache.cli.output import next_commands, print_json, progress_bar
from steercache.cli.sweep_tables import print_notes, print_splits, sweep_json
from steercache.core.errors import PartlyFailedError, UsageError
from steercache.core.trials import Target
from steercache.core.vectors import SteeringVector
from steercache.data.benchmarks import open_benchmark
from steercache.queries.session import open_session
from steercache.sweeps.evaluation.run import evaluate


@click.command(name="eval")
@click.argument("model")
@click.argument("benchmark", metavar="BENCHMARK | FILE")
@click.option("--vector", "names", multiple=True, help="Vector by name, id or prefix; may be repeated.")
@click.option("--methods", help="Also the newest vectors of the same concept and run by these, such as linear_probe.")
@click.option("--layer", "layers", help="Block, or several to choose among: 5,8-10.")
@click.option("--alpha", "alphas", default="1", show_default=True, help="Strength, or several: 0.5,1,2.")
@unit_option
@click.option(
    "--target",
    "targets",
    help="image, text, both, all or last; or several: image,text. By default image, or text for questions without pictures.",
)
@split_option
@rule_option
@question_options
@click.option("--n", type=click.IntRange(1), help="Questions per split; all by default.")
@click.option("--controls", type=click.IntRange(0), default=20, show_default=True, help="Per vector.")
@click.option("--control-kinds", default=",".join(CONTROL_KINDS), show_default=True, help="Separated by commas.")
@click.option("--prompting", help="Words of the prompting baseline; by default the concept's. '' leaves it out.")
@click.option(
    "--max-new-tokens", type=click.IntRange(1, 4096), help="By default 8 for letters and counts, 20 for words."
)
@batch_options(memory_mib=2048)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of controls and intervals.")
@mode_options
@click.option(
    "--damage/--no-damage",
    default=True,
    show_default=True,
    help="Measure what the chosen settings do to unrelated prompts (KL from the unsteered next token).",
)
@click.option("--allow-foreign", is_flag=True, help="Take vectors of other or unknown lineage; the table says so.")
@root_option
@device_options
@json_option
def eval_command(model: str, benchmark: str, **asked: Any) -> None:
    """Answer BENCHMARK with MODEL, unsteered, asked in words, steered, and under controls; compare, and keep every answer.

    MODEL is a model manifest, a checkpoint folder, or a model of the zoo (tiny, demo). BENCHMARK is a name, such as scenes; a
    wrong name is answered with all of them. FILE is a .jsonl, .csv or .parquet file of your own questions, with the columns
    question and answer, and any of choices, image (a path beside the file), group, task and split; a text model answers
    questions without pictures. With several layers, strengths or targets, every vector and control takes its best on the
    search split and is held to it on the test split.

    Safe to kill: answers are kept as they come, and asked again only where none is.

    \b
    steercache eval tiny scenes --task Count --form number --n 8
    steercache eval smollm2-135m questions.jsonl --vector certainty --layer 10 --alpha 1,2

    With vectors, add for instance --vector counting --layer 2,3 --alpha 0.5,1,2 --target image,text.
    """
    _ = _options(asked, ("image",))  # a wrong option is named before anything is read
    vectors = _vectors(asked)
    questions = open_benchmark(
        benchmark, asked["folder"], task=asked["task"], rule=asked["rule"], form=asked["form"], limit=None
    )
    options = _options(asked, default_targets(questions))
    loaded = find_model(model, asked["root"]).load(asked["root"], device=asked["device"], dtype=asked["dtype"])
    open_cache(asked["root"], create=True)  # answers need a place; without vectors nothing else of it is needed
    session = open_session(asked["root"])
    with progress_bar("reading questions", total=None, unit="answers", quiet=asked["as_json"]) as bar:
        found = evaluate(session, loaded, questions, vectors=vectors, options=options, progress=bar.show)
    if asked["as_json"]:
        print_json(sweep_json(found))
    else:
        print_splits(found.table)
        print_notes(found)
        next_commands(
            f"steercache query \"select * from answers where sweep_id = '{found.sweep_id}' and status = 'failed'\""
            if found.failures
            else f"steercache query \"select * from trials where sweep_id = '{found.sweep_id}'\"",
            "steercache vectors list",
        )
    if found.failures:
        first = found.failures[0]
        raise PartlyFailedError(
            f"{len(found.failures)} of {sum(found.n_samples.values())} samples failed; the first: {first.error}",
            hint="mend these rows, or report the table with their number",
        )


def _vectors(asked: dict[str, Any]) -> list[SteeringVector]:
    """The vectors that were named, from the cache. Raises NotFoundError."""
    if not asked["names"] and not asked["methods"]:
        return []
    session = open_session(asked["root"])
    vectors = [session.vector(name) for name in asked["names"]]
    if asked["methods"]:
        vectors = list(by_methods(session.cache, vectors, words(asked["methods"])))
    return vectors


def _options(asked: dict[str, Any], targets: tuple[Target, ...]) -> EvalOptions:
    layers = parse_layers(asked["layers"])
    if layers is None and asked["names"]:
        raise UsageError("which layer is not said", hint="--layer 12, or several to choose among: --layer 8-14")
    try:
        alphas = tuple(float(word) for word in words(asked["alphas"]))
    except ValueError:
        raise UsageError(f"{asked['alphas']!r} is no list of numbers", hint="--alpha 0.5,1,2") from None
    return EvalOptions(
        layers=tuple(layers or (0,)),
        alphas=alphas,
        targets=targets if asked["targets"] is None else among(asked["targets"], get_args(Target), "target"),
        alpha_unit=asked["unit"],
        control_kinds=among(asked["control_kinds"], CONTROL_KINDS, "kind of control"),
        **{
            name: asked[name]
            for name in (
                *("split", "n", "controls", "prompting", "max_new_tokens", "tokens_per_batch", "memory_mib", "seed"),
                *("allow_foreign", "damage", "mode", "recalibrate"),
            )
        },
    )
