"""What a trace costs is said before anything is written, from configurations alone, and a budget refuses it."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import transformers as tf
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import bfloat16, zeros

from steercache.cache.handle import open_cache
from steercache.cli.plan import plan as plan_command
from steercache.core.errors import BudgetError
from steercache.runs.engine import BuildOptions, build_run
from steercache.runs.job import PreparedTrace, prepare_trace
from steercache.runs.overview import bytes_of_gb, enough_gb, overview
from steercache.runs.plan import Plan, plan_run
from tests.models.test_image_sizes import paligemma2
from tests.models.test_sizes import GEMMA_2_2B
from tests.models.tiny_images import chat_template, train_tokenizer
from tests.tracing import write_small_trace

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")

N = 200
QUESTION = (
    "How many cats are on the table under the bridge and how many dogs ran over it"  # sixty tokens of the tests' own
)
Planned = Callable[..., tuple[Plan, PreparedTrace]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PaliGemma2-3B-mix-448 as its config and processor describe it; of its weights there is a handful of zeros."""
    folder = tmp_path_factory.mktemp("careless")
    tokenizer = train_tokenizer("paligemma")
    images = tf.SiglipImageProcessorPil(size={"height": 448, "width": 448})
    images.image_seq_length = 1024
    tf.PaliGemmaProcessor(images, tokenizer, chat_template=chat_template("paligemma")).save_pretrained(folder / "model")
    config = paligemma2(GEMMA_2_2B) | {"image_token_index": tokenizer.convert_tokens_to_ids("<image>")}
    (folder / "model" / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    save_file({"none": zeros(4, dtype=bfloat16)}, folder / "model" / "model.safetensors")
    PIL.Image.fromarray(np.full((448, 448, 3), 90, dtype=np.uint8)).save(folder / "grey.png")
    rows = [{"text": f"{QUESTION} {i}", "image": "grey.png"} for i in range(N)]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def planned(folder: Path) -> Planned:
    def plan(**trace: Any) -> tuple[Plan, PreparedTrace]:
        write_trace(folder, **trace)
        prepared = prepare_trace(folder / "trace.yaml", cache_root=folder / "root", device="cpu")
        return plan_run(prepared.job), replace(prepared, load=refuse_to_load)

    return plan


def refuse_to_load() -> Any:
    raise AssertionError("the weights were asked for")


def write_trace(folder: Path, **trace: Any) -> None:
    model = {"kind": "model", "version": 1, "name": "paligemma2-3b", "source": {"type": "path", "folder": "model"}}
    source = {"type": "jsonl", "path": "data.jsonl", "columns": {"image": "image"}}
    dataset = {"kind": "dataset", "version": 1, "name": "cats", "source": source, "limit": trace.pop("limit", N)}
    manifest = {"kind": "trace", "version": 1, "name": "careless", "model": model, "datasets": [dataset], **trace}
    (folder / "trace.yaml").write_text(yaml.safe_dump(manifest))


def test_a_careless_manifest_costs_130_mb_a_sample_and_is_refused_without_a_word_written(
    planned: Planned, folder: Path
) -> None:
    plan, prepared = planned()
    assert 1060 <= plan.most_rows <= 1110, "1,024 image tokens and a question"
    assert plan.document.layout.row_bytes == 26 * 2304 * 2
    seen = overview(None, folder / "root", plan)
    assert seen.n_bytes_of_largest == pytest.approx(130e6, rel=0.03)
    assert seen.n_bytes_of_layer == pytest.approx(5e6, rel=0.03)
    assert seen.n_bytes_to_write == plan.n_bytes
    rows_alone = plan.document.n_rows * (26 * 2304 * 2 + 12)
    assert rows_alone < plan.n_bytes < 1.25 * rows_alone, "chunks are whole, and a shard holds a few samples"
    cache = open_cache(folder / "root", create=True)
    with pytest.raises(BudgetError) as refused:
        build_run(cache, plan, prepared)
    said = str(refused.value)
    for word in ("the budget is 20 GB", "200 samples", "26 x 2304", "layers", "image", "pooled", "a budget of 30.7 GB"):
        assert word in said, word
    assert cache.documents() == []
    assert not list((folder / "root" / "runs").iterdir())


@pytest.mark.parametrize(
    ("trace", "options", "fits"),
    [
        ({}, BuildOptions(budget_bytes=1_000_000_000), False),
        ({"budget_gb": 0.1, "layers": [12], "limit": 40}, BuildOptions(), False),
        ({"budget_gb": 0.5, "layers": [12], "limit": 40}, BuildOptions(), True),
        ({"budget_gb": 0.1, "layers": [12], "limit": 40}, BuildOptions(budget_bytes=500_000_000), True),
        ({"budget_gb": 0.1, "rows": {"policy": "pooled"}}, BuildOptions(), False),
        ({"budget_gb": 0.25, "rows": {"policy": "pooled"}}, BuildOptions(), True),
    ],
)
def test_the_calls_budget_goes_before_the_manifests_and_fewer_rows_or_layers_fit(
    trace: dict[str, Any], options: BuildOptions, fits: bool, planned: Planned, tmp_path: Path
) -> None:
    plan, prepared = planned(**trace)
    expected = AssertionError if fits else BudgetError  # what fits goes on to ask for the weights, which are not there
    with pytest.raises(expected):
        build_run(open_cache(tmp_path / "root", create=True), plan, prepared, options)


def test_plan_says_the_sizes_and_that_a_build_would_be_refused(folder: Path, tmp_path: Path) -> None:
    write_trace(folder)
    said = CliRunner().invoke(plan_command, [str(folder / "trace.yaml"), "--root", str(tmp_path / "none")])
    assert said.exit_code == 0, said.output
    size = re.search(r"largest sample\D+(\d+) MB \(1,\d+ rows", said.output)
    assert size is not None, said.output
    assert int(size.group(1)) == pytest.approx(130, rel=0.03)
    assert "over the budget of 20 GB" in said.output
    assert not (tmp_path / "none").exists() or not (tmp_path / "none" / "runs").exists()
    asked = CliRunner().invoke(plan_command, [str(folder / "trace.yaml"), "--root", str(tmp_path / "none"), "--json"])
    assert json.loads(asked.stdout)["n_bytes_of_largest"] == pytest.approx(130e6, rel=0.03)


def test_what_is_cached_already_does_not_count_against_a_budget(tmp_path: Path) -> None:
    trace = write_small_trace(tmp_path / "t", n=40)
    built = trace.build(tmp_path / "root")
    assert built.n_shards_built > 1
    assert trace.build(tmp_path / "root", budget_bytes=1).n_shards_built == 0
    cache = open_cache(tmp_path / "root")
    cache.run_paths(built.run_id).shard("g0001", 0).unlink()
    first = cache.run_paths(built.run_id).generation("g0001")
    needed = (
        sum(path.stat().st_size for path in first.glob("*/c.0")) + (first / "resid_post" / "c.0.0.0").stat().st_size
    )
    needed -= (first / "layer" / "c.0").stat().st_size  # the layers' numbers, written when the run begins
    with pytest.raises(BudgetError):
        trace.build(tmp_path / "root", budget_bytes=needed - 1)
    assert trace.build(tmp_path / "root", budget_bytes=needed).n_shards_built == 1


@pytest.mark.parametrize(
    "trace",
    [
        {"rows_per_shard": 4096},  # most slots of which are never used
        {"rows_per_shard": 256, "chunk_rows": 64},
        {"rows_per_shard": 256, "layers": [1], "dtype": "bfloat16", "sites": ["resid_post", "mlp_out"]},
        {"rows": {"policy": "pooled"}, "chunk_rows": 16},
    ],
)
def test_a_small_build_writes_what_was_planned_tables_aside(tmp_path: Path, trace: dict[str, Any]) -> None:
    small = write_small_trace(tmp_path / "t", n=40, **trace)
    prepared = prepare_trace(small.manifest, cache_root=tmp_path / "root", device="cpu")
    plan = plan_run(prepared.job)
    built = small.build(tmp_path / "root", budget_bytes=plan.n_bytes)
    run = open_cache(tmp_path / "root").run_paths(built.run_id)
    arrays = [path for path in run.generation("g0001").rglob("c.*") if not path.parent.name.startswith("layer")]
    assert plan.n_bytes == sum(path.stat().st_size for path in arrays)
    tables = [path for name in ("rows", "samples") for path in (run.folder / name).iterdir()]
    assert built.n_bytes == plan.n_bytes + sum(path.stat().st_size for path in tables)


def test_the_budget_of_the_hint_is_enough(tmp_path: Path) -> None:
    trace = write_small_trace(tmp_path / "t", n=40)
    with pytest.raises(BudgetError) as refused:
        trace.build(tmp_path / "root", budget_bytes=1)
    said = re.search(r"a budget of (\S+) GB", str(refused.value.hint))
    assert said is not None
    document = yaml.safe_load(trace.manifest.read_text()) | {"budget_gb": yaml.safe_load(said.group(1))}
    trace.manifest.write_text(yaml.safe_dump(document))
    assert trace.build(tmp_path / "root").n_shards_built > 1


@given(n_bytes=st.integers(1, 10**15))
def test_a_size_of_three_digits_holds_what_it_was_said_for(n_bytes: int) -> None:
    said = enough_gb(n_bytes)
    assert isinstance(yaml.safe_load(said), int | float)
    assert n_bytes <= bytes_of_gb(float(said)) <= n_bytes * 1.01 + 1
    assert len(said.replace(".", "").strip("0")) <= 3
