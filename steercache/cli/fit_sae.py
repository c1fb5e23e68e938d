"""`steercache fit sae`: vectors from the features of sparse autoencoders (SAEs)."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from steercache.cli.completion import complete_concepts, complete_runs, complete_saes
from steercache.cli.options import LocalPath, RenamedOption, json_option, parse_layers, root_option, takes
from steercache.cli.output import next_commands, note, print_json, progress_bar
from steercache.cli.vector_tables import describe_vector, print_best, print_layers, steer_commands
from steercache.core.errors import UsageError
from steercache.core.ids import SHORT_ID

if TYPE_CHECKING:
    from steercache.core.vectors import SteeringVector
    from steercache.sae.endpoint import JudgeEndpoint

F = TypeVar("F", bound=Callable[..., Any])
SelectionName = Literal["paper", "firing_rate", "sparse_probe"]
KEY_VARIABLE = "STEERCACHE_JUDGE_KEY"


@dataclass(frozen=True, slots=True, kw_only=True)
class FitSaeOptions:
    """Options of `steercache fit sae`."""

    sae: str
    concept: str | None
    all_concepts: bool
    run: str | None
    layers: str | None
    selection: SelectionName
    judge: str | None
    judge_model: str | None
    judge_parameters: str | None
    key_variable: str
    timeout_s: float
    concurrency: int
    verdicts: Path | None
    unverified: bool
    evidence: Path | None
    meaning: str | None
    per_feature: bool
    allow_foreign: bool
    name: str | None
    no_diagnose: bool
    root: Path
    as_json: bool


def candidate_options(command: F) -> F:
    """Which features are looked for, of which SAE, on which run."""
    for option in reversed(
        (
            click.option(
                "--sae",
                required=True,
                shell_complete=complete_saes,
                help="SAE manifest, NAME-l12, or a folder that sae-lens wrote.",
            ),
            click.option(
                "--run",
                shell_complete=complete_runs,
                help="Run by name, id or prefix; by default the newest that fits the SAE.",
            ),
            click.option(
                "--layer",
                "layers",
                cls=RenamedOption,
                former=["--layers"],
                help="Blocks to fit, such as 5,10,12-20; by default every block that the SAEs and the run have.",
            ),
            click.option(
                "--selection",
                type=click.Choice(["paper", "firing_rate", "sparse_probe"]),
                default="paper",
                show_default=True,
                help="How features are picked: as arXiv 2505.14071 does, by an exact test of firing rates, or by an L1 probe.",
            ),
            click.option(
                "--evidence",
                type=LocalPath(path_type=Path, exists=True),
                help="File or folder of Neuronpedia exports; by default texts of the run.",
            ),
            click.option(
                "--allow-foreign", is_flag=True, help="Take an SAE of another model or another BOS convention."
            ),
            root_option,
            json_option,
        )
    ):
        command = option(command)
    return command


@click.command("sae")
@candidate_options
@click.option("--concept", shell_complete=complete_concepts, help="Concept to fit.")
@click.option("--all-concepts", is_flag=True, help="One vector per concept that the run has labels for.")
@click.option("--judge", metavar="URL", help="OpenAI-compatible endpoint of a model that verifies the features.")
@click.option("--judge-model", help="Name of the model at the endpoint.")
@click.option(
    "--judge-parameters",
    metavar="JSON",
    help='Sent with each request.  [default: {"temperature": 0, "max_tokens": 400}]',
)
@click.option(
    "--key-variable", default=KEY_VARIABLE, show_default=True, help="Environment variable that holds the key."
)
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(0.1), default=120.0, show_default=True, help="Seconds per request."
)
@click.option("--concurrency", type=click.IntRange(1), default=4, show_default=True, help="Requests at a time.")
@click.option(
    "--verdicts",
    type=LocalPath(path_type=Path, dir_okay=False),
    help="Review sheet (CSV) that was filled in, instead of a judge.",
)
@click.option("--unverified", is_flag=True, help="Take all picked features; the vector says so.")
@click.option("--meaning", help="What the concept means, in words, for the judge.")
@click.option("--per-feature", is_flag=True, help="Also one vector per feature.")
@click.option("--name", help="Name to save under; by default the concept with -sae.")
@click.option("--no-diagnose", is_flag=True, help="Skip scores and norms.")
@takes(FitSaeOptions)
def fit_sae_command(asked: FitSaeOptions) -> None:
    """Mean of the decoder rows of verified SAE features; unit norm.

    Features are picked by the rows of the concept, and verified: by a model behind an endpoint (--judge), by a review sheet
    (--verdicts), or not at all (--unverified). Replies of a judge are kept, and not asked for again. Every candidate is a row
    of the table `features`.

    \b
    steercache fit sae --sae gemma-scope-2b-pt-res-canonical --concept counting --unverified
    steercache fit sae --sae gemma-scope-2b-pt-res-canonical-l12 --concept counting --verdicts sheet.csv

    With a judge, add --judge http://127.0.0.1:8000/v1 --judge-model my-model in the place of --verdicts.
    """
    from steercache.api.cache import open_cache_at

    judge = _judge(asked)
    if [judge is not None, asked.verdicts is not None, asked.unverified].count(True) != 1:
        raise UsageError(
            "one way to verify the features is needed", hint="--judge URL, --verdicts FILE or --unverified"
        )
    cache = open_cache_at(asked.root)
    with progress_bar("fitting", total=None, unit="features", quiet=asked.as_json) as bar:
        fitted = cache.fit(
            "sae",
            sae=asked.sae,
            concept=asked.concept,
            all_concepts=asked.all_concepts,
            run=asked.run,
            layers=parse_layers(asked.layers),
            selection=asked.selection,
            judge=judge,
            verdicts=asked.verdicts,
            unverified=asked.unverified,
            evidence=asked.evidence,
            meaning=asked.meaning,
            per_feature=asked.per_feature,
            allow_foreign=asked.allow_foreign,
            name=asked.name,
            diagnose=not asked.no_diagnose,
            progress=bar.show,
        )
    means = [v for v in fitted if v.provenance["params"].get("feature") is None]
    for vector in means:
        note(_summary(vector))
    if singles := [v.name for v in fitted if v not in means]:
        several = "1 vector" if len(singles) == 1 else f"{len(singles)} vectors"
        note(f"{several} of one feature each: {', '.join(singles)}")
    if asked.as_json:
        print_json([describe_vector(vector) for vector in fitted])
        return
    shown = means if asked.no_diagnose else fitted
    if len(shown) == 1:
        print_layers(shown[0])
    else:
        print_best(shown)
    first = fitted[0]
    next_commands(
        f"steercache query \"select * from features where vector_id = '{first.vector_id}' order by layer, rank\"",
        *steer_commands(first, asked.root),
    )


def _judge(asked: FitSaeOptions) -> "JudgeEndpoint | None":
    """The endpoint, or None where no address is given. Raises UsageError."""
    if asked.judge is None:
        if asked.judge_model is not None:
            raise UsageError("--judge-model names a model, and no endpoint is given", hint="--judge URL")
        return None
    if not asked.judge_model:
        raise UsageError("the endpoint's model has no name", hint="--judge-model NAME")
    from steercache.api.sae_fitting import judge_endpoint

    parameters = None
    if asked.judge_parameters is not None:
        try:
            parameters = json.loads(asked.judge_parameters)
        except (ValueError, RecursionError):
            parameters = None
        if not isinstance(parameters, dict):
            raise UsageError(
                f"{asked.judge_parameters!r} is no JSON object", hint="--judge-parameters '{\"max_tokens\": 400}'"
            )
    return judge_endpoint(
        asked.judge,
        asked.judge_model,
        key_variable=asked.key_variable,
        parameters=parameters,
        timeout_s=asked.timeout_s,
        concurrency=asked.concurrency,
    )


def _summary(vector: "SteeringVector") -> str:
    from steercache.api.sae_fitting import n_features, verdict_counts

    counts = verdict_counts(vector)
    by = vector.provenance["verification"]["by"]
    said = ", ".join(f"{n} {'without a verdict' if what == 'none' else what}" for what, n in counts.items() if n)
    verified = "not verified" if by == "unverified" else f"{by}: {said}"
    n = sum(n_features(vector))
    features = f"{n} feature{'' if n == 1 else 's'}"
    layers = f"{len(vector.layers)} layer{'' if len(vector.layers) == 1 else 's'}"
    return f"{vector.name}: {features} at {layers} ({verified}), saved as {vector.vector_id[:SHORT_ID]}"
