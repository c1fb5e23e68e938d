"""`steercache report own`: an MLLM's own vector against that of its backbone."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from steercache.cli.completion import complete_models
from steercache.cli.options import (
    device_options,
    fitted_unit_option,
    json_option,
    parse_alphas,
    parse_layers,
    question_options,
    root_option,
    split_option,
    takes,
    target_option,
)
from steercache.cli.output import next_commands, note, print_json, print_table, progress_bar
from steercache.core.trials import AlphaUnit

if TYPE_CHECKING:
    from steercache.analysis.origins import Origins


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnOptions:
    """Which vectors are compared on which questions, as typed."""

    model: str
    benchmark: str
    concept: str
    method: str
    layers: str
    alphas: str
    alpha_unit: AlphaUnit
    target: Literal["image", "text", "both"]
    split: Literal["search", "test", "both"]
    task: str | None
    form: Literal["letter", "number", "word"]
    folder: Path | None
    n: int | None
    controls: int
    seed: int
    root: Path
    device: str
    dtype: str
    as_json: bool


@click.command("own")
@click.argument("model", shell_complete=complete_models)
@click.argument("benchmark", metavar="BENCHMARK | FILE")
@click.option("--concept", required=True, help="Concept of both vectors.")
@click.option("--method", default="mean_shift", show_default=True, help="Method by which both were fitted.")
@click.option("--layer", "layers", required=True, help="Block, or several to choose from: 5,8-10.")
@click.option("--alpha", "alphas", default="1", show_default=True, help="Strength, or several: 0.5,1,2.")
@fitted_unit_option
@target_option
@split_option
@question_options
@click.option("--n", type=click.IntRange(1), help="Number of questions per split; by default all.")
@click.option(
    "--controls",
    type=click.IntRange(0),
    default=20,
    show_default=True,
    help="Number of control directions of each kind per vector.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of controls and intervals.")
@root_option
@device_options
@json_option
@takes(OwnOptions)
def own_command(asked: OwnOptions) -> None:
    """Compare two vectors of a concept on BENCHMARK: one of MODEL's own activations, one of its backbone's.

    Both are the newest of their concept and method: fitted by the same query on a text run of MODEL, and on one of its
    backbone. Prints their cosine by layer, each one's gain with its controls, and the difference on the same questions.

    \b
    steercache report own demo scenes --concept counting --layer 12 --alpha 1 --task Count --form number --n 40
    """
    from steercache.api.analyses import own_against_backbone
    from steercache.api.cache import open_cache_at
    from steercache.api.evaluating import ControlOptions, EvalOptions, GridAxes, opened_benchmark

    options = EvalOptions(
        axes=GridAxes(
            layers=tuple(parse_layers(asked.layers) or ()),
            alphas=parse_alphas(asked.alphas, example="0.5,1,2"),
            targets=(asked.target,),
            alpha_unit=asked.alpha_unit,
        ),
        prompting="",
        split=asked.split,
        n=asked.n,
        controls=ControlOptions(count=asked.controls),
        seed=asked.seed,
    )
    cache = open_cache_at(asked.root)
    model = cache.model(asked.model, device=asked.device, dtype=asked.dtype)
    questions = opened_benchmark(asked.benchmark, folder=asked.folder, task=asked.task, form=asked.form)
    with progress_bar("reading questions", total=None, unit="", quiet=asked.as_json) as bar:
        found = own_against_backbone(
            cache.session,
            model,
            questions,
            concept=asked.concept,
            options=options,
            method=asked.method,
            progress=bar.show,
        )
    if asked.as_json:
        print_json(found)
        return
    _print(found)
    if asked.alpha_unit == "raw":
        note(
            "alpha counts multiples of each vector, whose lengths differ;"
            " --alpha-unit resid_norm adds equal lengths of both"
        )
    next_commands(f"steercache report html {found.evaluation.sweep_id[:12]}")


def _print(found: "Origins") -> None:
    rows: list[list[Any]] = [[c.layer, c.cosine, c.own_norm, c.backbone_norm] for c in found.cosines]
    print_table(["layer", "cosine", f"norm {found.own}", f"norm {found.backbone}"], rows, title="the two directions")
    click.echo()
    table = []
    for row in found.evaluation.rows:
        c, cell = row.comparison, row.cell
        setting = f"layer {cell.layer}, alpha {cell.alpha:g}"
        rank = "-" if row.rank_p is None else f"{row.rank_p:.3f}"
        interval = f"{c.gain.low:+.3f} to {c.gain.high:+.3f}"
        table.append(
            [
                row.split,
                row.name,
                setting,
                f"{c.after:.3f}",
                f"{c.unread_after:.1%}",
                f"{c.gain.estimate:+.3f}",
                interval,
                rank,
            ]
        )
    for split, c in found.direct.items():
        interval = f"{c.gain.low:+.3f} to {c.gain.high:+.3f}"
        name = f"{found.own} less {found.backbone}"
        table.append(
            [split, name, "each as chosen", "", "", f"{c.gain.estimate:+.3f}", interval, f"p = {c.p_clustered:.3g}"]
        )
    title = f"{found.evaluation.table.model} on {found.evaluation.table.benchmark}"
    print_table(["split", "vector", "setting", "right", "unread", "gain", "95 %", "rank p"], table, title=title)
    last = found.direct.get("test") or next(iter(found.direct.values()))
    if last.gain.excludes_zero and last.p_clustered <= 0.05:
        better = found.own if last.gain.estimate > 0 else found.backbone
        note(f"{better} gives more right answers on these {last.n} questions")
    else:
        note(f"no difference between the two shows on these {last.n} questions")
