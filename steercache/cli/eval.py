"""`steercache eval`: a benchmark's table, with intervals, controls and every answer kept."""

from statistics import median
from typing import Any, get_args

import click

from steercache.benchmarks.task import default_targets
from steercache.benchmarks.whatsup import WhatsUpScore
from steercache.cache.handle import open_cache
from steercache.cells.arms import EvalOptions
from steercache.cells.controls import CONTROL_KINDS
from steercache.cells.model import find_model
from steercache.cells.vectors import by_methods
from steercache.cli.clusters import clusters_line
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
from steercache.cli.output import next_commands, note, print_json, print_table, progress_bar
from steercache.core.errors import PartlyFailedError, UsageError
from steercache.core.ids import SHORT_ID
from steercache.core.trials import Target
from steercache.core.vectors import SteeringVector
from steercache.data.benchmarks import open_benchmark
from steercache.queries.session import open_session
from steercache.sweeps.evaluation.run import Evaluation, evaluate
from steercache.sweeps.evaluation.table import EvalRow

SHOWN = 5  # failures named at the terminal; --json has all


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
        print_json(found)
    else:
        _print(found)
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


def _print(found: Evaluation) -> None:
    for split, share in found.baseline.items():
        rows = [row for row in found.rows if row.split == split]
        title = f"{found.model} on {found.benchmark}, {split} split: {share:.3f} unsteered, {found.n_samples[split]} questions"
        title += f" ({found.baseline_unread[split]:.1%} of the unsteered answers unread)"
        columns = [
            "",
            "setting",
            "right",
            "unread",
            "gain",
            "95 %",
            "p",
            "p (Holm)",
            "could show",
            "controls",
            "rank p",
            "KL",
        ]
        print_table(columns, [_cells(row) for row in rows], title=title)
        if split in found.baseline_whatsup:
            click.echo(f"  unsteered: {whatsup_line(found.baseline_whatsup[split])}")
        for row in rows:
            _print_letters(row)
        click.echo()
    _print_notes(found)


def _cells(row: EvalRow) -> list[Any]:
    c, cell = row.comparison, row.cell
    setting = "-" if cell.layer is None else f"layer {cell.layer}, alpha {cell.alpha:g}, {cell.target}"
    gains = sorted(control.gain for control in row.controls)
    reached = f"{len(gains)}: {median(gains):+.3f} mid, {gains[-1]:+.3f} best" if gains else "-"
    changed = f" (+{c.mcnemar.helped} -{c.mcnemar.hurt})"
    return [
        row.name,
        setting,
        f"{c.after:.3f}",
        f"{c.unread_after:.1%}",
        f"{c.gain.estimate:+.3f}{changed}",
        f"{c.gain.low:+.3f} to {c.gain.high:+.3f}",
        f"{c.p_clustered:.3g}",
        f"{row.p_holm:.3g}",
        "nothing" if c.detectable is None else f"{c.detectable:.3f}",
        reached,
        "-" if row.rank_p is None else f"{row.rank_p:.3f}",
        "-" if row.damage is None else str(row.damage),
    ]


def _print_letters(row: EvalRow) -> None:
    """Answers before and after, where they are few enough to be read in a line."""
    letters = row.comparison.letters
    if len(letters.letters) <= 12:
        shown = zip(letters.letters, letters.before, letters.after, letters.right, strict=True)
        said = ", ".join(f"{name or 'unread'} {b}->{a} (right {r})" for name, b, a, r in shown)
        click.echo(f"  {row.name}: {said}; at least {letters.distance:.0%} changed")
    if row.bias is not None:
        click.echo(
            f"  {row.name}: search gain {row.bias.search.estimate:+.3f}, of which {row.bias.optimism:+.3f} is the choosing"
        )
    if row.whatsup is not None:
        click.echo(f"  {row.name}: {whatsup_line(row.whatsup)}")


def whatsup_line(score: WhatsUpScore) -> str:
    """What'sUp's three accuracies with the numbers they are of."""
    pairs, sets = "no whole pair", f"no whole set ({score.n_partial_sets} not whole)"
    if score.pair is not None:
        pairs = f"pairs {score.pair:.3f} ({score.n_right_pairs} of {score.n_pairs})"
    if score.whole_set is not None:
        sets = f"sets {score.whole_set:.3f} ({score.n_sets}; {score.n_partial_sets} not whole)"
    return f"single {score.individual:.3f}, {pairs}, {sets}"


def _print_notes(found: Evaluation) -> None:
    for split in found.baseline:
        rows = [row for row in found.rows if row.split == split]
        if rows and (line := clusters_line(rows[-1].comparison)):
            note(f"{split} split, {rows[-1].name}: {line}")
    for row in found.rows:
        if row.lineage in ("foreign", "unknown"):
            note(f"{row.name}: a vector of {row.lineage} lineage")
    for line in dict.fromkeys(found.notes):
        note(line)
    for split, choice in found.modes.items():
        note(f"{split} split: {choice.reason}")
    for failure in found.failures[:SHOWN]:
        note(f"failed ({failure.split}): {failure.error}")
    if len(found.failures) > SHOWN:
        note(f"and {len(found.failures) - SHOWN} more: --json names all")
    if found.n_looks is not None:
        times = "once" if found.n_looks == 1 else f"{found.n_looks} times"
        note(f"the test split of {found.benchmark} ({found.rule}) was looked at {times}")
    if found.computed_in_full:
        note(f"{len(found.computed_in_full)} settings ran in full: {next(iter(found.computed_in_full.values()))}")
    ties = f", {len(found.near_ties):,} of them near-ties" if found.near_ties else ""
    note(
        f"{found.n_computed:,} answers computed{ties}, {found.n_reused:,} read from the cache;"
        f" sweep {found.sweep_id[:SHORT_ID]}"
    )
