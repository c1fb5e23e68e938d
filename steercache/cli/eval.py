"""`steercache eval`: a benchmark's table, with intervals, controls and every answer kept."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from steercache.cli.completion import complete_models
from steercache.cli.options import (
    among,
    batch_options,
    device_options,
    engine_options,
    json_option,
    mixed_numerics_option,
    mode_options,
    operation_option,
    parse_alphas,
    parse_layers,
    place_option,
    question_options,
    root_option,
    rule_option,
    split_option,
    takes,
    targets_among,
    unit_option,
    words,
)
from steercache.cli.output import next_commands, note, print_json, progress_bar
from steercache.cli.typed import typed_command
from steercache.core.errors import PartlyFailedError, UsageError
from steercache.core.trials import CONTROL_KINDS, AlphaUnit, Target
from steercache.core.vector_use import PlaceName

if TYPE_CHECKING:
    from steercache.api.engines import EngineName
    from steercache.api.evaluating import EvalOptions
    from steercache.core.vectors import SteeringVector


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalCommandOptions:
    """What is evaluated on which questions, as typed."""

    model: str
    benchmark: str
    names: tuple[str, ...]
    methods: str | None
    combine: tuple[str, ...]
    layers: str | None
    alphas: str
    unit: AlphaUnit
    operation: str
    place: PlaceName | None
    targets: str | None
    split: Literal["search", "test", "both"]
    rule: Literal["grouped", "paper"]
    task: str | None
    form: Literal["letter", "number", "word"]
    folder: Path | None
    n: int | None
    controls: int
    control_kinds: str
    prompting: str | None
    max_new_tokens: int | None
    tokens_per_batch: int
    memory_mib: int
    seed: int
    mode: Literal["auto", "replay", "branch", "full"]
    recalibrate: bool
    damage: bool
    panel: int
    panel_tasks: tuple[str, ...]
    allow_foreign: bool
    root: Path
    device: str
    dtype: str
    engine: "EngineName"
    workers: int
    address: str | None
    cpus_per_worker: float
    gpus_per_worker: float
    mixed_numerics: bool
    as_json: bool


@click.command(name="eval")
@click.argument("model", shell_complete=complete_models)
@click.argument("benchmark", metavar="BENCHMARK | FILE")
@click.option("--vector", "names", multiple=True, help="Vector by name, id or prefix; may be repeated.")
@click.option(
    "--methods",
    help="Also evaluate the newest vectors of the same concept and run that these methods made, such as linear_probe.",
)
@click.option(
    "--combine",
    multiple=True,
    metavar="PARTS",
    help="Several vectors at once, as one competitor: VECTOR@LAYER, and alpha=, alpha_unit=, operation=, target=, place= where "
    'they differ from the other options; parts separated by ;, as "counting@2 alpha=4; entity@3 operation=project_out". May be '
    "repeated.",
)
@click.option("--layer", "layers", help="Block, or several to choose from: 5,8-10.")
@click.option("--alpha", "alphas", default="1", show_default=True, help="Strength, or several: 0.5,1,2.")
@unit_option
@operation_option
@place_option
@click.option(
    "--target",
    "targets",
    help="image, text, both, all or last; several: image,text; or SQL: \"sql: kind = 'image' and patch_row < 3\". By default "
    "image, or text for questions without pictures.",
)
@split_option
@rule_option
@question_options
@click.option("--n", type=click.IntRange(1), help="Number of questions per split; by default all.")
@click.option(
    "--controls",
    type=click.IntRange(0),
    default=20,
    show_default=True,
    help="Number of control directions of each kind per vector.",
)
@click.option(
    "--control-kinds",
    default=",".join(CONTROL_KINDS),
    show_default=True,
    help="Kinds of control directions, separated by commas.",
)
@click.option(
    "--prompting",
    help="Instruction of the prompting baseline; by default that of the concept. '': no prompting baseline.",
)
@click.option(
    "--max-new-tokens",
    type=click.IntRange(1, 4096),
    help="Largest number of generated tokens; by default 8 for letters and numbers, 20 for words.",
)
@batch_options(memory_mib=2048)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of controls and intervals.")
@mode_options
@click.option(
    "--damage/--no-damage",
    default=True,
    show_default=True,
    help="Measure damage: the KL divergence of the next-token distribution on unrelated prompts.",
)
@click.option(
    "--panel",
    metavar="N",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Measure side effects: ask N questions of each unrelated task in the chosen cells.",
)
@click.option(
    "--panel-task",
    "panel_tasks",
    metavar="NAME",
    multiple=True,
    help="Unrelated task: BENCHMARK, BENCHMARK:TASK, or a file of your own questions; may be repeated. By default the drawn "
    "scenes' tasks that are not evaluated.",
)
@click.option(
    "--allow-foreign",
    is_flag=True,
    help="Accept vectors that were fitted on other or unknown weights; the table marks them.",
)
@root_option
@device_options
@engine_options
@mixed_numerics_option
@json_option
@takes(EvalCommandOptions)
def eval_command(asked: EvalCommandOptions) -> None:
    """Evaluate vectors on BENCHMARK with MODEL, beside the unsteered model, a prompting baseline and control directions.

    MODEL is a model manifest, a checkpoint folder, or a model of the zoo (tiny, demo). BENCHMARK is a name, such as scenes, or
    a .jsonl, .csv or .parquet file of your own questions, with the columns question and answer, and optionally choices, image
    (a path relative to the file), group, task and split; a text model answers questions without pictures. With several layers,
    strengths or targets, the best cell of every vector and control is chosen on the search split and evaluated on the test
    split.

    Every answer is stored at once. An interrupted evaluation is resumed by the same command.

    \b
    steercache eval tiny scenes --task Count --form number --n 8
    steercache eval smollm2-135m questions.jsonl --vector certainty --layer 10 --alpha 1,2

    With vectors, add for instance --vector counting --layer 2,3 --alpha 0.5,1,2 --target image,text.
    """
    from steercache.api.cache import open_cache_at
    from steercache.api.engines import where_of
    from steercache.api.evaluating import default_targets, evaluate_at, opened_benchmark
    from steercache.api.reporting import record_command
    from steercache.cli.combined import combinations_of, read_combination
    from steercache.cli.sweep_tables import print_notes, print_splits, sweep_json

    _ = _options(asked, ("image",))  # a wrong option is named before anything is read
    vectors = _vectors(asked)
    written = [read_combination(text) for text in asked.combine]
    questions = opened_benchmark(
        asked.benchmark, folder=asked.folder, task=asked.task, rule=asked.rule, form=asked.form
    )
    options = _options(asked, default_targets(questions))
    with progress_bar("reading questions", total=None, unit="answers", quiet=asked.as_json) as bar:
        found = evaluate_at(
            asked.root,
            asked.model,
            questions,
            vectors=vectors,
            options=options,
            combinations=combinations_of(written, options, asked.root),
            device=asked.device,
            dtype=asked.dtype,
            where=where_of(asked, on_note=note),
            progress=bar.show,
        )
    record_command(open_cache_at(asked.root).session, [found.sweep_id], typed_command())
    if asked.as_json:
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


def _vectors(asked: EvalCommandOptions) -> "list[SteeringVector]":
    """The vectors that were named, from the cache. Raises NotFoundError."""
    from steercache.api.cache import open_cache_at
    from steercache.api.evaluating import found_vectors

    if not asked.names and not asked.methods:
        return []
    return found_vectors(open_cache_at(asked.root).session, asked.names, methods=words(asked.methods or ""))


def _options(asked: EvalCommandOptions, usual: tuple[Target, ...]) -> "EvalOptions":
    """What the evaluation is to do; `usual` are the targets where none is named. Raises UsageError."""
    from steercache.api.evaluating import (
        ComputeOptions,
        ControlOptions,
        DecodingOptions,
        EvalOptions,
        GridAxes,
        panel_tasks,
    )

    layers = parse_layers(asked.layers)
    if layers is None and asked.names:
        raise UsageError("missing option --layer", hint="--layer 12, or several to choose among: --layer 8-14")
    return EvalOptions(
        axes=GridAxes(
            layers=tuple(layers or (0,)),
            alphas=parse_alphas(asked.alphas, example="0.5,1,2"),
            targets=usual if asked.targets is None else targets_among(asked.targets),
            alpha_unit=asked.unit,
            operation=asked.operation,
            place=asked.place,
        ),
        decoding=DecodingOptions(max_new_tokens=asked.max_new_tokens),
        compute=ComputeOptions(
            tokens_per_batch=asked.tokens_per_batch,
            memory_mib=asked.memory_mib,
            mode=asked.mode,
            recalibrate=asked.recalibrate,
        ),
        controls=ControlOptions(
            count=asked.controls, kinds=among(asked.control_kinds, CONTROL_KINDS, "kind of control")
        ),
        split=asked.split,
        n=asked.n,
        prompting=asked.prompting,
        damage=asked.damage,
        panel=asked.panel,
        panel_tasks=panel_tasks(asked.panel_tasks),
        seed=asked.seed,
        allow_foreign=asked.allow_foreign,
    )
