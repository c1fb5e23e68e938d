"""Completion of names at a terminal (`_STEERCACHE_COMPLETE=bash_source steercache` prints the shell's part)."""

from pathlib import Path

import click

from steercache.api import completion


def _root(context: click.Context) -> Path:
    root = context.params.get("root")
    return root if isinstance(root, Path) else Path("cache")


def complete_runs(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Runs of the cache."""
    return _starting(completion.run_names(_root(context)), incomplete)


def complete_vectors(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Vectors of the cache."""
    return _starting(completion.vector_names(_root(context)), incomplete)


def complete_sweeps(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Sweeps that the cache has answers of."""
    return _starting(completion.sweep_names(_root(context)), incomplete)


def complete_concepts(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Concepts that vectors were fitted for."""
    return _starting(completion.concept_names(_root(context)), incomplete)


def complete_queries(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Named queries."""
    return _starting(completion.query_names(), incomplete)


def complete_manifests(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Manifests of every kind, by name or file."""
    return _starting(completion.manifest_names(), incomplete)


def complete_traces(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Trace manifests, and data files that are traced without one."""
    return _starting([*completion.manifest_names("trace"), *completion.data_files()], incomplete)


def complete_plans(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Whatever can be planned: traces, sweeps, data files."""
    names = [*completion.manifest_names("trace"), *completion.manifest_names("sweep"), *completion.data_files()]
    return _starting(names, incomplete)


def complete_models(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Model manifests."""
    return _starting(completion.manifest_names("model"), incomplete)


def complete_sweep_manifests(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Sweep manifests."""
    return _starting(completion.manifest_names("sweep"), incomplete)


def complete_saes(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """SAE manifests."""
    return _starting(completion.manifest_names("sae"), incomplete)


def complete_recipes(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Recipe manifests."""
    return _starting(completion.manifest_names("recipe"), incomplete)


def complete_encoded_saes(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """SAEs that encoded a run of the cache."""
    return _starting(completion.encoded_sae_names(_root(context)), incomplete)


def _starting(names: list[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
