"""Options that several commands share, and how a command's values become one frozen object."""

import math
import re
from collections.abc import Callable, Sequence
from copy import copy
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from steercache.api.paths import is_address, root_of, usable_root
from steercache.core.errors import UsageError
from steercache.core.excerpts import excerpt
from steercache.core.trials import AlphaUnit, Target
from steercache.core.vector_use import PLACES

F = TypeVar("F", bound=Callable[..., Any])
Options = TypeVar("Options")
Result = TypeVar("Result")
_LAYERS = re.compile(r"([0-9]{1,4})(?:-([0-9]{1,4}))?")  # no model has 10,000 blocks


def takes(kind: type[Options]) -> Callable[[Callable[[Options], Result]], Callable[..., Result]]:
    """Make a click callback of a function of one frozen options object: click's values are the fields of `kind`."""

    def decorate(command: Callable[[Options], Result]) -> Callable[..., Result]:
        @wraps(command)
        def call(**given: Any) -> Result:
            return command(kind(**given))

        call.options_type = kind  # type: ignore[attr-defined]
        return call

    return decorate


class RenamedOption(click.Option):
    """An option that also takes its former names, which the help does not show."""

    def __init__(self, *args: Any, former: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.shown = list(self.opts)
        self.opts = [*self.opts, *former]

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        record = copy(self)
        record.opts = self.shown
        return click.Option.get_help_record(record, ctx)


class LocalPath(click.Path):
    """A file or folder of this machine: an address is refused, which as a path would be a folder named `s3:`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str) and "://" in value:
            raise UsageError(
                f"{excerpt(value)} is an address; this has to be a path of this machine",
                hint="name a path here; steercache push and pull take runs, vectors and sweeps to an address and back",
            )
        return super().convert(value, param, ctx)


class RootPath(click.Path):
    """A folder, or an address, whose value is the folder that mirrors it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str) and is_address(value):
            return root_of(value)
        return super().convert(value, param, ctx)


def _usable_root(context: click.Context, parameter: click.Parameter, root: Path) -> Path:
    return usable_root(root)


root_option = click.option(
    "--root",
    callback=_usable_root,
    type=RootPath(path_type=Path, file_okay=False),
    default=Path("cache"),
    envvar="STEERCACHE_ROOT",
    show_default=True,
    show_envvar=True,
    help="Folder of the cache, or address of one (s3://, gs://, az://, file://).",
)
unit_option = click.option(
    "--alpha-unit",
    "unit",
    cls=RenamedOption,
    former=["--unit"],
    type=click.Choice(get_args(AlphaUnit)),
    default="raw",
    show_default=True,
    help="Unit of alpha. raw: alpha times the vector; resid_norm: alpha times the median norm of the rows that the vector was "
    "fitted on; target_norm: alpha times the median norm of the steered rows; kl: the strength at which the KL "
    "divergence on unrelated prompts is alpha nats.",
)
fitted_unit_option = click.option(
    "--alpha-unit",
    "alpha_unit",
    cls=RenamedOption,
    former=["--unit"],
    type=click.Choice(["raw", "resid_norm"]),
    default="raw",
    show_default=True,
    help="Unit of alpha. raw: alpha times the vector; resid_norm: alpha times the median norm of the rows that the vector was "
    "fitted on.",
)
operation_option = click.option(
    "--operation",
    default="add",
    show_default=True,
    help="What is done to the hidden state: add, project_out, project_cap:bound=2, clamp:value=2, replace, rotate, "
    "rotate_in_plane:angle=90, rotate_in_plane_adaptive:angle=90, add_preserving_norm or affine:scale=0.5,offset=2. For "
    "rotate, alpha is the angle in degrees; for add and add_preserving_norm it multiplies the vector; for the others it is the "
    "share of the way, usually 1.",
)
place_option = click.option(
    "--place",
    type=click.Choice(list(PLACES)),
    help="Where in the block: resid_post, its output; resid_pre, its input; attn_out and mlp_out, what attention and MLP add; "
    "head_out, the outputs of the attention heads. By default head_out for vectors of it, resid_post for all others.",
)
target_option = click.option(
    "--target",
    type=click.Choice(["image", "text", "both"]),
    default="image",
    show_default=True,
    help="Which tokens are steered.",
)
split_option = click.option(
    "--split",
    type=click.Choice(["search", "test", "both"]),
    default="both",
    show_default=True,
    help="Split to answer. search: choose the best cell; test: answer with the chosen cell; both: one after the other.",
)
rule_option = click.option(
    "--rule",
    type=click.Choice(["grouped", "paper"]),
    default="grouped",
    show_default=True,
    help="How search and test split are drawn. grouped: by picture; paper: as in arXiv 2505.14071.",
)
random_option = click.option(
    "--random", "n_random", type=click.IntRange(0), default=20, show_default=True, help="Number of random directions."
)
picture_option = click.option(
    "--out",
    type=LocalPath(path_type=Path, dir_okay=False),
    help="File to write, .png or .svg; by default in the cache's folder pictures/.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else, on stdout.")


def device_options(command: F) -> F:
    """`--device` and `--dtype`, for commands that load a model."""
    command = click.option(
        "--device", default="auto", show_default=True, help="Device of the model: cpu, cuda, cuda:1, mps or auto."
    )(command)
    return click.option(
        "--dtype",
        type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
        default="auto",
        show_default=True,
        help="Dtype of the computation; auto: the dtype of the checkpoint.",
    )(command)


def question_options(command: F) -> F:
    """`--task`, `--form` and `--folder`, for commands that answer a benchmark."""
    command = click.option(
        "--folder",
        type=LocalPath(path_type=Path, file_okay=False),
        help="Local folder of the benchmark's files; by default they come from the Hugging Face hub.",
    )(command)
    command = click.option(
        "--form",
        type=click.Choice(["letter", "number", "word"]),
        default="letter",
        show_default=True,
        help="Form of the answers: the letter of an option, a number, or a word.",
    )(command)
    return click.option("--task", help="One task of the benchmark, such as Relation.")(command)


def batch_options(*, memory_mib: int) -> Callable[[F], F]:
    """`--tokens-per-batch` and `--memory`, for commands that answer questions in batches."""

    def add(command: F) -> F:
        command = click.option(
            "--memory",
            "memory_mib",
            metavar="MIB",
            type=click.IntRange(1),
            default=memory_mib,
            show_default=True,
            help="Memory for activations, in MiB, in addition to the model's weights.",
        )(command)
        return click.option(
            "--tokens-per-batch",
            type=click.IntRange(1),
            default=4096,
            show_default=True,
            help="Largest batch of an unsteered forward pass, in tokens with padding.",
        )(command)

    return add


def mode_options(command: F) -> F:
    """`--mode` and `--recalibrate`, for commands that answer questions under many cells."""
    command = click.option(
        "--recalibrate",
        is_flag=True,
        help="Measure again the costs by which `--mode auto` chooses; they are measured once and kept.",
    )(command)
    return click.option(
        "--mode",
        type=click.Choice(["auto", "replay", "branch", "full"]),
        default="auto",
        show_default=True,
        help="Execution mode of the steered answers; auto: the quickest of the exact ones.",
    )(command)


def parse_layers(text: str | None) -> list[int] | None:
    """Layers such as 5,10,12-20; None for none given. Raises UsageError.

    >>> parse_layers("5,8-10")
    [5, 8, 9, 10]
    """
    if text is None:
        return None
    layers: list[int] = []
    for part in text.split(","):
        found = _LAYERS.fullmatch(part.strip())
        if found is None:
            raise UsageError(f"{part.strip()!r} is not a layer", hint="--layer 5,10,12-20")
        layers += range(int(found[1]), int(found[2] or found[1]) + 1)
    return layers


def parse_alphas(text: str, *, example: str = "1,2,4") -> tuple[float, ...]:
    """Strengths such as 0.5,1,2, each once. Raises UsageError.

    >>> parse_alphas("0.5, 1,1")
    (0.5, 1.0)
    """
    try:
        alphas = tuple(dict.fromkeys(float(word) for word in words(text)))
    except ValueError:
        raise UsageError(f"{text!r} is not a list of numbers", hint=f"--alpha {example}") from None
    if not all(math.isfinite(alpha) for alpha in alphas):
        raise UsageError(f"{text!r}: alpha must be a finite number", hint=f"--alpha {example}")
    return alphas


def parse_bindings(pairs: Sequence[str], *, typed: bool) -> dict[str, Any]:
    """Values of a query's parameters, written NAME=VALUE; `typed` where a query's header says their types, else guessed.

    Raises:
        UsageError: a pair without a name or a value, or two values for one name.
    """
    from steercache.api.querying import guessed

    bindings: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise UsageError(f"{pair!r} is not NAME=VALUE", hint="-p concept=counting")
        if name in bindings:
            raise UsageError(f"-p {name} is given twice", hint=f"-p {name}=... once")
        bindings[name] = value if typed else guessed(value)
    return bindings


def among(text: str, known: Sequence[str], noun: str) -> tuple[Any, ...]:
    """The words of a list such as `image,text`, each once.

    Raises:
        UsageError: one that is not among `known`.
    """
    found = words(text)
    wrong = [word for word in found if word not in known]
    if wrong:
        raise UsageError(f"no {noun} named {', '.join(wrong)}", hint=f"choose among: {', '.join(known)}")
    return tuple(dict.fromkeys(found))


def one_target(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Callback of an option that takes one target, by name or as SQL behind `sql:`."""
    if value is None:
        return None
    found = targets_among(value)
    if len(found) != 1:
        raise UsageError(f"{len(found)} targets are named", hint="name one")
    return found[0]


def targets_among(text: str) -> tuple[str, ...]:
    """The targets of `--target`: names such as `image,text`, or one that is SQL, `sql: kind = 'image' and patch_row < 3`.

    Raises:
        UsageError: a name that there is not.
    """
    return (text,) if text.lstrip()[:4].lower() == "sql:" else among(text, get_args(Target), "target")


def words(text: str) -> list[str]:
    """A comma-separated list's words."""
    return [word.strip() for word in text.split(",") if word.strip()]


allow_foreign_option = click.option(
    "--allow-foreign",
    is_flag=True,
    help="Accept a vector that was fitted on other weights, or whose weights are not recorded.",
)


def engine_options(command: F) -> F:
    """Where the work is done: how many processes, of this machine or of a Ray cluster."""
    for option in reversed(_ENGINE):
        command = option(command)
    return command


def mixed_numerics_option(command: F) -> F:
    """`--mixed-numerics`, for commands whose answers or rows several machines may compute."""
    return click.option(
        "--mixed-numerics",
        is_flag=True,
        help="Let workers take part that compute other last bits than this process; what is stored records it.",
    )(command)


def cpu_engine_options(command: F) -> F:
    """The same, for work without a model."""
    for option in reversed(_ENGINE[:-1]):
        command = option(command)
    return command


_ENGINE = (
    click.option(
        "--engine",
        type=click.Choice(["local", "ray"]),
        default="local",
        show_default=True,
        help="Where workers run: processes of this machine, or actors of a Ray cluster.",
    ),
    click.option("--workers", type=click.IntRange(1, 4096), default=1, show_default=True, help="Number of processes."),
    click.option(
        "--address",
        metavar="ADDRESS",
        help="Ray cluster: auto (the one this machine belongs to) or HOST:PORT. By default that of RAY_ADDRESS, or a cluster "
        "on this machine for the length of the work.",
    ),
    click.option(
        "--cpus-per-worker",
        type=click.FloatRange(min=0),
        default=1.0,
        show_default=True,
        help="CPUs that Ray sets aside for each worker.",
    ),
    click.option(
        "--gpus-per-worker",
        type=click.FloatRange(min=0),
        default=0.0,
        show_default=True,
        help="GPUs that Ray sets aside for each worker, such as 1 or 0.5.",
    ),
)
