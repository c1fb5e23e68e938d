"""Sounds in the cache: rows, kinds and times of a data set of WAV files, a fit on audio tokens, and a replay of it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import steercache
from steercache.cache.handle import open_cache
from steercache.core.errors import SteercacheError
from steercache.models.load import load_model
from steercache.steering.branch import BranchOptions
from steercache.steering.cells import BranchCell
from steercache.steering.replay import replay
from steercache.steering.stored_rows import GatheredBatch
from steercache.trace.batches import pad_batch
from steercache.trace.encode import encode_example
from tests.models.tiny import manifest_of
from tests.models.tiny_audio import N_LAYERS, sound, write_hearing
from tests.steering.small import directions
from tests.steering.test_replay import facts_of
from tests.trace import test_sounds_more as others
from tests.trace.test_sounds import example, last_logits, plain_inputs, plain_outputs
from tests.tracing import SmallTrace

HEARD = (
    ("What is heard here?", "a.wav", sound(0.9)),
    ("And now?", "b.wav", sound(0.5, seed=1)),
    ("Nothing", None, None),
)


def write_sounds_trace(folder: Path, *, column: str = "sound", family: str = "qwen2_audio") -> SmallTrace:
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "model").exists():
        write_hearing(family, folder / "model")
    for _, name, ref in HEARD:
        if name is not None and ref is not None:
            (folder / name).write_bytes(ref.load())
    rows = [{"text": text, "sound": name} for text, name, _ in HEARD]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = {"type": "path", "folder": "model"}
    source = {"type": "jsonl", "path": "data.jsonl", "columns": {"audio": column}}
    document: dict[str, Any] = {
        "kind": "trace",
        "version": 1,
        "name": "sounds",
        "model": {"kind": "model", "version": 1, "name": "tiny", "attention": "eager", "source": model},
        "datasets": [{"kind": "dataset", "version": 1, "name": "heard", "source": source}],
        "chunk_rows": 16,
        "numerics": {"tokens_per_batch": 1, "threads": 1},
    }
    (folder / "trace.yaml").write_text(yaml.safe_dump(document))
    return SmallTrace(folder=folder)


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("sounds")
    return folder, write_sounds_trace(folder).cache(folder / "root")


def test_rows_are_those_of_a_plain_forward_and_audio_tokens_have_their_times(traced: tuple[Path, Any]) -> None:
    folder, cache = traced
    loaded = load_model(manifest_of(folder / "model"), cache_dir=folder / "models", device="cpu")
    source = cache.source(cache.documents()[0].run_id)
    with cache.connection() as connection:
        rows = connection.execute(
            "select sample_idx, list(time_ms order by position) filter (kind = 'audio'), any_value(n) from ("
            "  select *, count(*) over (partition by sample_idx) as n from tokens) group by all order by all"
        ).fetchall()
        others = connection.execute("select distinct time_ms, tile from tokens where kind <> 'audio'").fetchall()
    times = {sample: found for sample, found, _ in rows}
    assert times[0] == [40 * i for i in range(22)]
    assert times[1] == [40 * i for i in range(12)]
    assert not times[2]
    assert others == [(-1, -1)]
    first = 0
    for text, _, ref in HEARD:
        asked = example(text, *([] if ref is None else [ref]))
        inputs = plain_inputs(loaded, asked) if ref else {"input_ids": _ids(loaded, asked)}
        for layer, value in enumerate(plain_outputs(loaded, inputs)):
            got = source.gather("resid_post", layer, np.arange(first, first + value.shape[1]))
            assert np.array_equal(got, value[0].numpy()), (text, layer)
        first += value.shape[1]
    assert source.document.n_rows == first
    assert source.document.replayable


@pytest.mark.slow
@pytest.mark.parametrize("family", others.FAMILIES)
def test_other_models_that_hear_are_traced_like_it(family: str, tmp_path: Path) -> None:
    cache = write_sounds_trace(tmp_path, family=family).cache(tmp_path / "root")
    loaded = load_model(manifest_of(tmp_path / "model"), cache_dir=tmp_path / "models", device="cpu")
    source, first = cache.source(cache.documents()[0].run_id), 0
    with cache.connection() as connection:
        found = connection.execute(
            "select sample_idx, list(time_ms order by position) from tokens where kind = 'audio' group by all order by all"
        ).fetchall()
    each = others.EACH_MS[family]
    assert found == [(i, [each * k for k in range(others.n_tokens(family, s))]) for i, s in ((0, 0.9), (1, 0.5))]
    for text, _, ref in HEARD[:2]:
        assert ref is not None
        for layer, value in enumerate(others.plain_outputs(loaded, others.plain_inputs(loaded, example(text, ref)))):
            got = source.gather("resid_post", layer, np.arange(first, first + value.shape[1]))
            assert np.array_equal(got, value[0].numpy()), (text, layer)
        first += value.shape[1]


def _ids(loaded: Any, asked: Any) -> torch.Tensor:
    return torch.from_numpy(encode_example(asked, loaded.bundle).input_ids.astype(np.int64))[None]


def test_the_target_audio_is_replayed_from_the_rows(traced: tuple[Path, Any]) -> None:
    folder, cache = traced
    loaded = load_model(manifest_of(folder / "model"), cache_dir=folder / "models", device="cpu")
    source = cache.source(cache.documents()[0].run_id)
    text, _, ref = HEARD[0]
    assert ref is not None
    sample = encode_example(example(text, ref), loaded.bundle)
    batch = pad_batch([sample], padding_side="left", pad_id=0)
    rows = GatheredBatch(
        facts=facts_of(loaded),
        padded_len=sample.n_tokens,
        as_recorded=True,
        sample_ids=[sample.sample_id],
        token_ids=[sample.input_ids],
        rows=[np.arange(sample.n_tokens)],
        source=source,
    )
    heard: list[str] = []
    loaded.model.model.audio_tower.register_forward_hook(lambda m, a, out: heard.append("tower"))
    cells = [
        BranchCell(key=target, layer=layer, delta_d=directions(1)[0], target=target)
        for layer, target in enumerate(("audio", "both", "last"))
    ]
    options = BranchOptions(max_new_tokens=1, same_batch=True)
    answers = {one.key: one for one in replay(loaded, batch, cells, stored=rows, options=options)}
    assert heard == []
    assert len(cells) == N_LAYERS
    for cell in cells:
        assert answers[cell.key].mode == "replay"
        assert torch.equal(answers[cell.key].logits_bv, last_logits(loaded, batch, cell))


def test_a_selection_of_audio_tokens_is_a_query(traced: tuple[Path, Any]) -> None:
    root = steercache.open(traced[0] / "root")
    found = root.sql("select count(*) from tokens where kind = 'audio' and time_ms < 200").fetchall()
    assert found == [(10,)]


def test_a_vector_fitted_on_audio_tokens_is_saved_and_read_again(traced: tuple[Path, Any]) -> None:
    root = steercache.open(traced[0] / "root")
    chosen = root.select(
        "SELECT run_id, row_idx, (kind = 'audio')::INTEGER AS label FROM tokens WHERE kind IN ('audio', 'text')"
    )
    fitted = steercache.fit.mean_shift(chosen, name="heard")
    root.save(fitted)
    again = steercache.open(traced[0] / "root").vector("heard")
    assert np.array_equal(again.values, fitted.values)
    assert again.fitted_on is not None
    assert again.fitted_on.modality == "audio"


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    trace = write_sounds_trace(tmp_path, column="noise")
    with pytest.raises(SteercacheError, match="noise"):
        trace.cache(tmp_path / "root")
    assert not open_cache(tmp_path / "root", create=True).documents()
