"""`steercache fit`: vectors for every layer from the cache, without a model."""

import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from steercache.cache.vectors import list_vectors
from steercache.cli.options import json_option, root_option
from steercache.cli.output import at_root, next_commands, note, print_json, print_table
from steercache.core.errors import NotFoundError, UsageError
from steercache.core.ids import SHORT_ID
from steercache.core.vectors import SteeringVector
from steercache.fit import METHODS, diagnose
from steercache.queries.bindings import guessed
from steercache.queries.session import Session, open_session

F = TypeVar("F", bound=Callable[..., Any])
DEFAULT_QUERY = "anchor_vs_control"
DEFAULT_SITE = "resid_post"
_LAYERS = re.compile(r"([0-9]{1,4})(?:-([0-9]{1,4}))?")  # no model has 10,000 blocks


def _fit_options(command: F) -> F:
    """What both methods take."""
    for option in reversed(
        (
            click.option("--concept", help="Concept to fit; bound to the query's parameter of that name."),
            click.option("--all-concepts", is_flag=True, help="One vector per concept that the run has labels for."),
            click.option("--query", default=DEFAULT_QUERY, show_default=True, help="Named selection, or SQL."),
            click.option("-p", "pairs", multiple=True, metavar="NAME=VALUE", help="More bindings; may be repeated."),
            click.option("--run", help="Run by name, id or prefix; needed when the query leaves a choice."),
            click.option("--site", default=DEFAULT_SITE, show_default=True, help="Where the rows were taken."),
            click.option(
                "--recipe",
                type=click.Choice(["default", "paper"]),
                default="default",
                show_default=True,
                help="paper: as arXiv 2505.14071 fits it.",
            ),
            click.option("--layers", help="Such as 5,10,12-20; all that were kept by default."),
            click.option("--name", help="Name to save under; the concept by default."),
            click.option("--no-diagnose", is_flag=True, help="Skip held-out scores and stability."),
            root_option,
            json_option,
        )
    ):
        command = option(command)
    return command


@click.group()
def fit() -> None:
    """Fit steering vectors for every layer from the cache; no model is loaded.

    \b
    steercache fit mean-shift --all-concepts
    """


@fit.command("mean-shift")
@_fit_options
def mean_shift_command(**asked: Any) -> None:
    """Mean of the concept's rows minus mean of the others.

    \b
    steercache fit mean-shift --concept counting
    steercache fit mean-shift --all-concepts --recipe paper
    """
    _run("mean_shift", asked, {})


@fit.command("probe")
@_fit_options
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the paper's SGD.")
def probe_command(seed: int, **asked: Any) -> None:
    """Direction of a logistic regression; unit norm.

    \b
    steercache fit probe --concept counting
    steercache fit probe --concept counting --recipe paper --seed 1
    """
    _run("linear_probe", asked, {"seed": seed})


def _run(method: str, asked: dict[str, Any], options: dict[str, Any]) -> None:
    if asked["name"] and asked["all_concepts"]:
        raise UsageError("--name goes with one concept", hint="leave it out: each vector is named after its concept")
    session = open_session(asked["root"])
    concepts = _concepts(session, asked)
    options |= {"recipe": asked["recipe"], "layers": parse_layers(asked["layers"]), "name": asked["name"]}
    fitted = []
    for concept in concepts:
        bindings = parse_bindings(asked["pairs"], asked["query"])
        if concept:
            if "concept" in bindings:
                raise UsageError("the concept is given twice", hint="either --concept or -p concept=...")
            bindings["concept"] = concept
        sel = session.select(asked["query"], **_placed(bindings, asked))
        vector = METHODS[method](sel, **options)
        if not asked["no_diagnose"]:
            vector = diagnose(sel, vector, others=_siblings(session, vector))
        session.save(vector)
        fitted.append(vector)
        note(f"{vector.name}: {len(sel):,} rows, {len(vector.layers)} layers, saved as {vector.vector_id[:SHORT_ID]}")
    if asked["as_json"]:
        print_json([describe_vector(vector) for vector in fitted])
        return
    if len(fitted) == 1:
        print_layers(fitted[0])
    else:
        _print_best(fitted)
    first = fitted[0]
    next_commands(f"steercache vectors show {shlex.quote(first.name)}", steer_command(first, asked["root"]))


def _placed(bindings: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """Bindings with the run and the site, which have options of their own and may be bound by -p as well."""
    for name, usual in (("run", None), ("site", DEFAULT_SITE)):
        if name in bindings and asked[name] != usual:
            raise UsageError(f"the {name} is given twice", hint=f"either --{name} or -p {name}=...")
        bindings.setdefault(name, asked[name])
    return bindings


def _concepts(session: Session, asked: dict[str, Any]) -> Sequence[str | None]:
    """What to fit, one after the other. For all concepts the run is chosen first, so that all are of one run."""
    if not asked["all_concepts"]:
        return (asked["concept"],)
    if asked["concept"]:
        raise UsageError("--concept and --all-concepts exclude each other")
    bound = parse_bindings(asked["pairs"], asked["query"]).get("run")
    wanted = asked["run"] or bound
    run = session.cache.resolve_run(wanted) if wanted else session.labelled_run()
    if not wanted:
        note(f"run {session.cache.name_of(run)} ({run[:SHORT_ID]})")
    if bound is None:
        asked["run"] = run
    rows = session.sql(
        "select distinct concept from samples where concept is not null and run_id = $run order by 1", run=run
    ).fetchall()
    if not rows:
        raise NotFoundError("no sample of this run has a concept", place=run, hint="steercache query runs_overview")
    return [row[0] for row in rows]


def parse_bindings(pairs: Sequence[str], query: str) -> dict[str, Any]:
    """`name=value` pairs; a named query's header says what they are, for inline SQL it is guessed. Raises UsageError."""
    inline = len(query.split()) > 1
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier() or name in found:
            raise UsageError(f"{pair!r} is not name=value, or a second value for it", hint="-p concept=counting")
        found[name] = guessed(value) if inline else value
    return found


def _siblings(session: Session, vector: SteeringVector) -> list[SteeringVector]:
    """The newest vectors of the same concept and run by other methods or recipes."""
    found: dict[tuple[str, Any], SteeringVector] = {}
    own = (vector.method, vector.provenance.get("recipe"))
    for stored in list_vectors(session.cache):
        other = stored.vector
        kind = (other.method, other.provenance.get("recipe"))
        same = other.concept == vector.concept and other.provenance.get("run_id") == vector.provenance.get("run_id")
        if same and kind != own and other.hidden_size == vector.hidden_size and other.site == vector.site:
            found.setdefault(kind, other)
    return list(found.values())


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
            raise UsageError(f"{part.strip()!r} is no layer", hint="--layers 5,10,12-20")
        layers += range(int(found[1]), int(found[2] or found[1]) + 1)
    return layers


def describe_vector(vector: SteeringVector) -> dict[str, Any]:
    """What a vector is, without its values."""
    return {
        "vector_id": vector.vector_id,
        "name": vector.name,
        "method": vector.method,
        "concept": vector.concept,
        "site": vector.site,
        "layers": list(vector.layers),
        "provenance": dict(vector.provenance),
        "diagnostics": [dict(d) for d in vector.diagnostics],
    }


def print_layers(vector: SteeringVector) -> None:
    """The per-layer table of one vector."""
    by_layer = {d["layer"]: d for d in vector.diagnostics}
    others = list(dict.fromkeys(name for d in vector.diagnostics for name in d.get("cosine", {})))
    columns = ["layer", "AUC", "AUC, token only", "norm", "norm / median row", "stability", "95 %"]
    rows = []
    for layer, norm in zip(vector.layers, vector.norms, strict=True):
        d = by_layer.get(layer, {})
        low, high = d.get("stability_low"), d.get("stability_high")
        interval = None if low is None else f"{low:.2f} to {high:.2f}"
        measured = [d.get("auc"), d.get("token_auc"), float(norm), d.get("norm_ratio"), d.get("stability"), interval]
        rows.append([layer, *measured, *(d.get("cosine", {}).get(name) for name in others)])
    print_table([*columns, *(f"cos {name}" for name in others)], rows)
    _say_caveats(vector)


def _print_best(fitted: Sequence[SteeringVector]) -> None:
    columns = ["vector", "id", "rows", "best layer", "AUC", "AUC, token only", "norm / median row", "stability"]
    rows = []
    for vector in fitted:
        best: Any = max(vector.diagnostics, key=lambda d: d["auc"] or 0.0, default={})
        head = [vector.name, vector.vector_id[:SHORT_ID], vector.provenance["rows"]["n"], best.get("layer")]
        rows.append([*head, *(best.get(k) for k in ("auc", "token_auc", "norm_ratio", "stability"))])
    print_table(columns, rows)
    _say_caveats(fitted[0])


def _say_caveats(vector: SteeringVector) -> None:
    if vector.provenance.get("lossy"):
        note("fitted on a lossy generation of the run: values differ from what the model computed")
    if vector.diagnostics and vector.diagnostics[0]["auc"] is None:
        note("no AUC: all sentences share an anchor word, directly or in a chain, so none can be held out")
    elif vector.diagnostics:
        note(f"AUC on held-out sentences and anchor words ({vector.diagnostics[0]['n_folds']} folds)")


def steer_command(vector: SteeringVector, root: Path) -> str:
    """How to try a vector, from any folder: at an early block, at strengths that show (a probe has unit norm), without the
    first token."""
    early = vector.layers[len(vector.layers) // 5]
    alpha = "1,2,4" if vector.method == "mean_shift" else "10,20,40"
    words = f"--layer {early} --alpha {alpha} --tokens text --skip-first"
    return f'steercache steer {shlex.quote(vector.name)} "On the way home we saw" {words}{at_root(root, default=None)}'
