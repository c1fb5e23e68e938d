"""Every option of a command has the default of the API's parameter of its name, so that a notebook and a shell agree."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import click
import pytest

import steercache
from steercache.api.cache import Cache
from steercache.api.sweeps import Sweep
from steercache.cli.main import steercache as command_line

# How a command writes and prints; and what it reads from files that Python passes as values.
OF_THE_TERMINAL = {"help", "root", "as_json", "out", "yes"}
ALPHAS = {"unit": "alpha_unit"}
# Options with another name than the parameter's; "not ..." for a flag that switches off.
RENAMED: dict[str, dict[str, str]] = {
    "build": {"manifest": "trace", "budget": "budget_gb"},
    "plan": {"manifest": "trace", "budget": "budget_gb"},
    "fit mean-shift": {"no_diagnose": "not diagnose", "pairs": "bindings"},
    "fit probe": {"no_diagnose": "not diagnose", "pairs": "bindings"},
    "fit sae": {"no_diagnose": "not diagnose"},
    "sae encode": {"layers": "layer"},
    "sae health": {"texts": "n_texts"},
    "eval": {"names": "vectors", "combine": "combinations", **ALPHAS},
    "grid": {"no_test": "not test"},
    "screen": {"names": "vectors", "n_samples": "n", "run": "gradients", **ALPHAS},
    "report words": {"listed": "words"},
    "activations copy": {"target": "root"},
    "vectors export": {"name": "vector", "output": "path"},
    "vectors import": {"file": "path"},
    "push": {"public": "not private"},
    "vectors suggest": {"name": "vector"},
    "cache rm": {"shards": "damaged_shards_only"},
    "serve": {"no_browser": "not open_browser", "time_limit": "sql_time_s"},
}
# Options that choose among functions, or are values of an object of their own in Python.
ELSEWHERE: dict[str, set[str]] = {
    "plan": {"nulls", "mode", "recalibrate"},  # of a sweep
    "fit sae": {"judge_model", "judge_parameters", "key_variable", "timeout_s", "concurrency"},
    "sae review": {"out"},
    "activations export": {"query", "params", "run", "site"},  # of Cache.select
    "activations copy": {"query", "params"},
    "grid": {"sweep", "n_shown", "device", "dtype"},
    "screen": {"words", "by", "top", "nulls", "compare", "share", "pilot", "resamples", "sae", "step", "concept"}
    | {"exact", "live", "seed"},
    "vectors export": {"operation", "strength", "strength_unit", "target", "phase", "skip_first"},  # of VectorUse
    "report patches": {"picture"},
    "report colours": {"sae", "feature"},
}
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "plan": Cache.plan,
    "build": Cache.build,
    "fit mean-shift": Cache.fit,
    "fit probe": Cache.fit,
    "fit sae": Cache.fit,
    "sae encode": Cache.encode,
    "sae health": Cache.sae_health,
    "sae review": Cache.review_sae,
    "steer": Cache.generate,
    "eval": Cache.evaluate,
    "grid": Sweep.run,
    "screen": Cache.screen,
    "report words": Cache.words,
    "report drift": Cache.drift,
    "report patches": Cache.patches,
    "report colours": Cache.colours,
    "report own": Cache.own,
    "activations import": Cache.import_activations,
    "activations export": Cache.export,
    "activations copy": Cache.copy_part,
    "vectors export": steercache.export_vector,
    "vectors import": Cache.import_vector,
    "push": Cache.push,
    "pull": Cache.pull,
    "vectors suggest": Cache.suggest_use,
    "cache compact": Cache.compact,
    "cache rm": Cache.remove,
    "cache gc": Cache.collect_garbage,
    "serve": steercache.serve,
}


def command(path: str) -> click.Command:
    found: click.Command = command_line
    for word in path.split():
        assert isinstance(found, click.Group)
        found = found.get_command(click.Context(found), word)  # type: ignore[assignment]
    return found


def options_of(path: str) -> dict[str, click.Parameter]:
    return {p.name: p for p in command(path).params if p.name is not None and p.name not in OF_THE_TERMINAL}


def plain(value: Any) -> Any:
    """What a default means: nothing, or values that a shell and Python write differently."""
    if value in (None, (), "", False) or value is inspect.Parameter.empty or "UNSET" in repr(value):
        return None
    if isinstance(value, str) and value.replace(",", "").replace(".", "").isdigit():
        return tuple(map(float, value.split(",")))
    if isinstance(value, str):
        return tuple(value.split(","))
    if isinstance(value, bool):
        return value
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def parameters_of(path: str) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(FUNCTIONS[path]).parameters


@pytest.mark.parametrize("path", FUNCTIONS)
def test_options_have_the_defaults_of_the_parameters_that_they_set(path: str) -> None:
    renamed, elsewhere, parameters = RENAMED.get(path, {}), ELSEWHERE.get(path, set()), parameters_of(path)
    wrong = {}
    for name, option in options_of(path).items():
        if name in elsewhere:
            continue
        target = renamed.get(name, name)
        parameter = parameters.get(target.removeprefix("not "))
        assert parameter is not None, f"{path}: no parameter for option {name}"
        default = plain(option.default)
        wanted = plain(not parameter.default if target.startswith("not ") else parameter.default)
        if default != wanted:
            wrong[name] = (default, wanted)
    assert not wrong


SECOND: list[tuple[str, Callable[..., Any], set[str]]] = [
    ("grid", Cache.sweep, {"device", "dtype"}),
    ("plan", Sweep.plan, {"nulls", "mode", "recalibrate"}),
    ("screen", Sweep.screen, {"pilot", "trust", "force"}),
    (
        "screen",
        Cache.screen_features,
        {"sae", "step", "top", "concept", "exact", "live", "seed", "force", "rule", "form"},
    ),
    ("sae train", Cache.train_sae, {"layer", "kinds", "device"}),
    (
        "sae train",
        steercache.TrainingSettings,
        {"architecture", "k", "n_rows", "batch_size", "lr", "sparsity_coefficient", "held_out", "seed"},
    ),
    ("fit sae", steercache.JudgeEndpoint, {"timeout_s", "concurrency", "key_variable"}),
    ("report own", Cache.evaluate, {"controls", "split", "form", "seed", "alphas"}),
]


@pytest.mark.parametrize(("path", "function", "names"), SECOND, ids=lambda value: getattr(value, "__name__", None))
def test_options_that_set_several_functions_agree_with_each(
    path: str, function: Callable[..., Any], names: set[str]
) -> None:
    options, parameters = options_of(path), inspect.signature(function).parameters
    found = {name: plain(options[name].default) for name in names}
    assert found == {name: plain(parameters[name].default) for name in names}


def test_evaluations_and_sweeps_take_the_quickest_exact_mode_unless_told_otherwise() -> None:
    for function in (Cache.evaluate, Sweep.run, Sweep.plan):
        assert inspect.signature(function).parameters["mode"].default == "auto"


def every_command(group: click.Group = command_line, path: tuple[str, ...] = ()) -> list[tuple[str, click.Command]]:
    found: list[tuple[str, click.Command]] = []
    for name in group.list_commands(click.Context(group)):
        one = group.get_command(click.Context(group), name)
        assert one is not None
        words = (*path, name)
        found += every_command(one, words) if isinstance(one, click.Group) else [(" ".join(words), one)]
    return found


# Names that one thing had in some commands; they are still taken, and no help shows them.
FORMER = {"--layers", "--unit", "--tokens", "--alphas", "--targets"}


def test_one_thing_has_one_name_in_the_help_of_every_command() -> None:
    commands = every_command()
    assert len(commands) > 40
    shown = {
        (path, word)
        for path, one in commands
        for option in one.params
        if isinstance(option, click.Option) and (record := option.get_help_record(click.Context(one))) is not None
        for word in record[0].replace(",", " ").split()
    }
    assert not {(path, word) for path, word in shown if word in FORMER}
    assert ("sae encode", "--layer") in shown
