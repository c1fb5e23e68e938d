"""Gradients of the shipped tiny model over a few drawn questions: what is asked, planned and recorded."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from steercache.benchmarks.task import EncodedQuestion, ask, pick_rows
from steercache.data.benchmarks import open_benchmark
from steercache.models.spec import LoadedModel, TokenizerBundle
from steercache.queries.session import Session
from steercache.screening import gradient_plan
from steercache.screening.gradient_plan import GradientPlan, GradientRequest, plan_gradients
from steercache.screening.gradient_run import record_gradients
from steercache.screening.gradient_source import GradientSource
from steercache.screening.gradient_store import StoredGradients, open_gradients
from steercache.trace.numerics import numerics
from tests.world import World

LAYERS = (1, 3, 4)


def questions(
    bundle: TokenizerBundle, *, n: int = 14, task: str = "Count", form: Any = "number"
) -> tuple[EncodedQuestion, ...]:
    """Questions of the search split of `scenes`, encoded."""
    bench = open_benchmark("scenes", task=task, form=form)
    return ask(pick_rows(bench, "search", n=n, orphans="search"), bundle, split="search")


def small_plan(
    bundle: TokenizerBundle, asked: tuple[EncodedQuestion, ...] | None = None, **changes: Any
) -> GradientPlan:
    """Image and text tokens at three layers; `changes` of the wish, or `wording`."""
    wording = {name: changes.pop(name) for name in ("wording",) if name in changes}
    known: dict[str, Any] = {"benchmark": "scenes", "layers": LAYERS, "targets": ("image", "text")}
    wish = GradientRequest(**(known | {"tokens_per_batch": 200} | changes))
    found = numerics(bundle, device=torch.device("cpu"))
    return plan_gradients(bundle, questions(bundle) if asked is None else asked, wish, numerics=found, **wording)


def small_gradients(session: Session, loaded: LoadedModel, **changes: Any) -> StoredGradients:
    """Those gradients, recorded."""
    plan = small_plan(loaded.bundle, **changes)
    record_gradients(session.cache, loaded, plan)
    return open_gradients(session.cache, plan.document.run_id, plan)


def wanted(loaded: LoadedModel, **changes: Any) -> GradientSource:
    """Gradients of a model that is in memory already."""
    return GradientSource(**({"bundle": loaded.bundle, "load": lambda: loaded, "device": "cpu"} | changes))


def copied_root(world: World, folder: Path) -> Path:
    """A copy of the world's cache, so that other tests' caches stay as they are."""
    shutil.copytree(
        world.session.cache.root, folder / "root", ignore=shutil.ignore_patterns("models", "sweeps", "ledger*")
    )
    return folder / "root"


def many_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """The smallest shards there can be: some questions each."""
    monkeypatch.setattr(gradient_plan, "SHARD_MIB", 0)
