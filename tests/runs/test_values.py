"""What is in the cache is what the model computed: bit for bit, at every layer, site and row."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from steercache.cache.handle import open_cache
from tests.tiny import sentences, write_tiny_model
from tests.tracing import write_small_trace

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def plain_outputs(folder: Path, text: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Every site of every block by plain forward hooks on one sentence alone: site -> (l, t, d)."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    ids = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt").input_ids
    seen: dict[str, list[torch.Tensor]] = {"resid_pre": [], "resid_post": [], "attn_out": [], "mlp_out": []}

    def first(value: object) -> torch.Tensor:
        return value[0] if isinstance(value, tuple) else value  # type: ignore[return-value]

    for block in model.model.layers:
        block.register_forward_pre_hook(lambda m, args: seen["resid_pre"].append(first(args).clone()))
        block.register_forward_hook(lambda m, args, out: seen["resid_post"].append(first(out).clone()))
        block.self_attn.register_forward_hook(lambda m, args, out: seen["attn_out"].append(first(out).clone()))
        block.mlp.register_forward_hook(lambda m, args, out: seen["mlp_out"].append(first(out).clone()))
    with torch.no_grad():
        model(ids)
    return {site: torch.cat(parts) for site, parts in seen.items()}


def bits(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).view(np.uint16 if array.dtype.itemsize == 2 else np.uint32)


def torch_bits(tensor: torch.Tensor) -> np.ndarray:
    view = torch.uint16 if tensor.element_size() == 2 else torch.uint32
    return tensor.contiguous().view(view).numpy()


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_batch_invariant_rows_are_those_of_each_sentence_alone(dtype: str, tmp_path: Path) -> None:
    texts, source = sentences(12), {"type": "path", "folder": "model"}
    model = {"kind": "model", "version": 1, "name": "tiny", "dtype": dtype, "source": source}
    numerics = {"tokens_per_batch": 4096, "threads": 1, "batch_invariant": True, "padding_side": "left"}
    write_tiny_model(tmp_path / "model", dtype=DTYPES[dtype])
    trace = write_small_trace(tmp_path, texts=texts, model=model, numerics=numerics, rows_per_shard=512)
    cache = trace.cache(tmp_path / "root")
    run = cache.source(cache.resolve_run("small"))
    assert run.document.numerics["batch_invariant"] is True
    first = 0
    for text in texts:
        alone = plain_outputs(tmp_path / "model", text, DTYPES[dtype])["resid_post"]
        rows = np.arange(first, first + alone.shape[1])
        for layer in range(3):
            assert np.array_equal(bits(run.gather("resid_post", layer, rows)), torch_bits(alone[layer])), text
        first += len(rows)
    other = write_small_trace(
        tmp_path, texts=texts, model=model, numerics={**numerics, "batch_invariant": False}, rows_per_shard=512
    )
    assert other.build(tmp_path / "root").computed_otherwise == ("batch_invariant was True, is False",)
    assert "batch_invariant" not in other.cache(tmp_path / "plain").documents()[0].numerics


@pytest.mark.parametrize("dtype", list(DTYPES))
def test_every_row_of_every_site_and_layer_equals_a_plain_forward_bit_for_bit(dtype: str, tmp_path: Path) -> None:
    texts = sentences(12)
    sites = ["resid_post", "resid_pre", "attn_out", "mlp_out"]
    model = {
        "kind": "model",
        "version": 1,
        "name": "tiny",
        "dtype": dtype,
        "source": {"type": "path", "folder": "model"},
    }
    # one sentence a batch: the reference below computes them one by one, and other shapes round differently
    numerics = {"tokens_per_batch": 1, "threads": 1}
    trace = write_small_trace(tmp_path, texts=texts, sites=sites, model=model, numerics=numerics)
    cache = trace.cache(tmp_path / "root")
    source = cache.source(cache.resolve_run("small"))
    row = 0
    rows_per_shard = source.document.layout.rows_per_shard
    for planned in source.document.shards:
        row = planned.shard_idx * rows_per_shard
        for text in texts[planned.first_sample : planned.first_sample + planned.n_samples]:
            wanted = plain_outputs(tmp_path / "model", text, DTYPES[dtype])
            n_tokens = wanted["resid_post"].shape[1]
            rows = np.arange(row, row + n_tokens)
            for site in sites:
                for layer in range(3):
                    got = source.gather(site, layer, rows)
                    assert np.array_equal(bits(got), torch_bits(wanted[site][layer])), (text, site, layer)
            row += n_tokens


def test_infinities_and_massive_activations_come_back_bit_for_bit(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.model.embed_tokens.weight[5, 0] = 3e38
        model.model.embed_tokens.weight[6, 1] = float("inf")
        model.model.embed_tokens.weight[7, 2] = 26_880.0
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    words = tokenizer.convert_ids_to_tokens([4, 5, 6, 7, 8])
    trace = write_small_trace(tmp_path, texts=[" ".join(words)], sites=["resid_pre"], layers=[0])
    cache = trace.cache(tmp_path / "root")
    got = cache.source(cache.resolve_run("small")).gather("resid_pre", 0, np.arange(5))
    wanted = model.model.embed_tokens.weight[[4, 5, 6, 7, 8]].detach().numpy()
    assert np.isinf(got).any()
    assert np.array_equal(bits(got), bits(wanted))


@pytest.mark.parametrize(
    ("rows", "keep"),
    [
        ({"policy": "last"}, lambda n, anchor: [n - 1]),
        ({"policy": "every", "every": 3}, lambda n, anchor: list(range(0, n, 3))),
        ({"policy": "roles", "roles": ["anchor"]}, lambda n, anchor: anchor),
        ({"policy": "roles", "roles": ["anchor", "last"]}, lambda n, anchor: sorted({*anchor, n - 1})),
    ],
)
def test_a_row_policy_keeps_exactly_its_rows(rows: dict, keep: object, tmp_path: Path) -> None:
    alone = {"tokens_per_batch": 1, "threads": 1}  # other rows make other shards: only batches of one stay the same
    whole = write_small_trace(tmp_path / "t", n=40, numerics=alone).cache(tmp_path / "whole")
    part = write_small_trace(tmp_path / "t", n=40, numerics=alone, rows=rows).cache(tmp_path / "part")
    source, kept = (c.source(c.resolve_run("small")) for c in (whole, part))
    with whole.connection() as connection:
        every = connection.execute("select sample_idx, position, row_idx, piece from tokens").fetchall()
    with part.connection() as connection:
        some = connection.execute(
            "select sample_idx, position, row_idx from tokens where row_idx is not null"
        ).fetchall()
    lengths: dict[int, int] = {}
    words: dict[tuple[int, int], str] = {}
    place: dict[tuple[int, int], int] = {}
    for sample, position, row, piece in every:
        lengths[sample] = max(lengths.get(sample, 0), position + 1)
        words[sample, position] = piece
        place[sample, position] = row
    wanted = set()
    for sample, n in lengths.items():
        anchors = [p for p in range(n) if words[sample, p] == words[sample, 1]]
        wanted |= {(sample, p) for p in keep(n, anchors)}  # type: ignore[operator]
    assert {(s, p) for s, p, _ in some} == wanted
    assert not kept.document.replayable
    for sample, position, row in some:
        for layer in range(3):
            one = kept.gather("resid_post", layer, np.array([row]))
            assert np.array_equal(one, source.gather("resid_post", layer, np.array([place[sample, position]])))


def test_other_batchings_agree_within_tolerance_and_padding_side_changes_no_meaning(tmp_path: Path) -> None:
    roots = []
    for i, numerics in enumerate(
        ({"tokens_per_batch": 64}, {"tokens_per_batch": 7}, {"tokens_per_batch": 64, "padding_side": "left"})
    ):
        roots.append(write_small_trace(tmp_path / "t", numerics=numerics | {"threads": 1}).cache(tmp_path / f"r{i}"))
    sources = [c.source(c.resolve_run("small")) for c in roots]
    assert len({s.run_id for s in sources}) == 1, "numerics are not identity"
    for layer in range(3):
        views = [np.concatenate([v for _, v in s.layer_views("resid_post", layer)]) for s in sources]
        np.testing.assert_allclose(views[1], views[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(views[2], views[0], rtol=1e-4, atol=1e-5)


def test_mending_a_label_re_joins_it_and_traces_nothing(tmp_path: Path) -> None:
    trace = write_small_trace(tmp_path / "t", n=20)
    root = tmp_path / "root"
    first = trace.build(root)
    lines = (trace.folder / "data.jsonl").read_text().splitlines()
    row = json.loads(lines[0])
    row["anchor"] = row["text"].split()[2]
    (trace.folder / "data.jsonl").write_text("\n".join([json.dumps(row), *lines[1:]]) + "\n")
    again = trace.build(root)
    assert again.run_id == first.run_id
    assert again.n_shards_built == 0
    with open_cache(root).connection() as connection:
        anchors = connection.execute("select position from tokens where sample_idx = 0 and is_anchor").fetchall()
    wanted = [(p,) for p, word in enumerate(row["text"].split()) if word == row["anchor"]]
    assert sorted(anchors) == wanted


def test_anchors_are_part_of_a_run_that_keeps_only_anchors_and_controls(tmp_path: Path) -> None:
    rows = {"policy": "roles", "roles": ["anchor", "control"]}
    trace = write_small_trace(tmp_path / "t", n=20, rows=rows)
    root = tmp_path / "root"
    first = trace.build(root)
    lines = (trace.folder / "data.jsonl").read_text().splitlines()
    row = json.loads(lines[0])
    row["anchor"] = next(word for word in row["text"].split()[1:] if word != row["anchor"])
    (trace.folder / "data.jsonl").write_text("\n".join([json.dumps(row), *lines[1:]]) + "\n")
    again = trace.build(root)
    assert again.run_id != first.run_id
    assert again.n_shards_built > 0


def test_another_text_is_another_run(tmp_path: Path) -> None:
    root = tmp_path / "root"
    one = write_small_trace(tmp_path / "t", n=20).build(root)
    two = write_small_trace(tmp_path / "t", n=21).build(root)
    assert one.run_id != two.run_id
    assert two.n_shards_built > 0
