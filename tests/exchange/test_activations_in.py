"""Captured activations become runs: the same rows as our own trace, and every known fault is refused by name."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file, save_file

from steercache import Cache, Run
from steercache.core.errors import DamagedError, ManifestError, UsageError
from tests.exchange.conftest import Engine
from tests.exchange.engines import as_sae_lens, as_vllm, as_vllm_lens, requests_file, rows_of

ALL = [0, 1, 2, 3]  # the embedding, and the outputs of three blocks


def rows(cache: Cache, run: Run | str, layer: int, site: str = "resid_post") -> np.ndarray:
    """Every row of a run in its order."""
    name = run if isinstance(run, str) else run.run_id
    found = cache.sql(
        f"SELECT row_idx FROM tokens WHERE run_id = '{cache.run(name).run_id}' AND row_idx >= 0 ORDER BY row_idx"
    )
    source = cache.folder.source(cache.run(name).run_id)
    return source.gather(site, layer, found.df()["row_idx"].to_numpy())


def test_a_vllm_folder_is_the_run_that_our_own_trace_makes(engine: Engine, cache: Cache, tmp_path: Path) -> None:
    shuffled = [*reversed(range(len(engine.plain)))]  # requests end in any order
    folder = as_vllm(tmp_path / "hs", [engine.plain[i] for i in shuffled], ALL)
    run = cache.import_activations(folder, source_format="vllm", trace=engine.trace.manifest, entries=ALL, verify=3)
    assert run.sites == {"resid_post": (0, 1, 2)}
    assert any("embedding: left out" in note for note in run.notes)
    for layer in range(3):
        np.testing.assert_allclose(rows(cache, run, layer), rows(cache, "small", layer), rtol=1e-4, atol=1e-5)
        assert (rows(cache, run, layer) == rows_of(engine.plain, layer)).all()
    columns = "sample_idx, position, row_idx, token_id, piece, char_start, kind"
    tokens = f"SELECT {columns} FROM tokens WHERE run_id = '{{}}' ORDER BY 1, 2"
    own, other = (cache.sql(tokens.format(cache.run(name).run_id)).df() for name in ("small", run.name))
    cells = [name for name in own.columns if name != "row_idx"]
    assert own[cells].equals(other[cells])
    fitted = [
        cache.select("anchor_vs_control", concept="order", run=name).gather(layer=1) for name in ("small", run.name)
    ]
    np.testing.assert_allclose(fitted[1], fitted[0], rtol=1e-4, atol=1e-5)
    assert not cache.verify().findings
    again = cache.import_activations(folder, source_format="vllm", trace=engine.trace.manifest, entries=ALL)
    assert (again.run_id, again.n_shards_built) == (run.run_id, 0)


def test_an_import_without_a_data_set_keeps_ids_and_compacts(engine: Engine, cache: Cache, tmp_path: Path) -> None:
    folder = as_vllm(tmp_path / "hs", engine.plain, [3, 1])  # in the order of the engine's option
    run = cache.import_activations(folder, source_format="vllm", model="away", n_layers=3, entries=[3, 1], rows="last")
    assert run.sites == {"resid_post": (0, 2)}
    last = np.stack([one.states[1][-1].numpy() for one in engine.plain])
    assert (rows(cache, run, 0) == last).all()
    found = cache.sql(
        f"SELECT token_id, piece FROM tokens WHERE run_id = '{run.run_id}' ORDER BY sample_idx, position"
    ).df()
    assert found["token_id"].tolist() == torch.cat([one.token_ids for one in engine.plain]).tolist()
    assert found["piece"].isna().all()
    cache.compact(run.name)
    assert (rows(cache, run, 0) == last).all()


def test_rows_and_token_ids_that_differ_in_number_are_refused_by_name(
    engine: Engine, cache: Cache, tmp_path: Path
) -> None:
    folder = as_vllm(tmp_path / "hs", engine.plain, ALL)
    for name in ("4", "7"):  # what prefix caching does: the first states are missing, the token ids are all there
        tensors = load_file(folder / f"{name}.safetensors")
        tensors["hidden_states"] = tensors["hidden_states"][2:].contiguous()
        save_file(tensors, folder / f"{name}.safetensors")
    with pytest.raises(ManifestError, match="prefix caching") as raised:
        cache.import_activations(folder, source_format="vllm", trace=engine.trace.manifest, entries=ALL)
    assert [(p.loc, p.kind) for p in raised.value.problems] == [("4", "rows"), ("7", "rows")]
    assert len(cache.runs().df()) == 1  # nothing was written


def test_every_fault_of_one_folder_is_named_at_once(engine: Engine, cache: Cache, tmp_path: Path) -> None:
    folder = as_vllm(tmp_path / "hs", engine.plain, ALL)
    (folder / "0.safetensors").write_bytes((folder / "0.safetensors").read_bytes()[:-100])  # cut
    (folder / "1.safetensors").unlink()  # its lock stays: the write never ended
    tensors = load_file(folder / "2.safetensors")
    save_file({**tensors, "hidden_states": tensors["hidden_states"].half()}, folder / "2.safetensors")
    save_file(load_file(folder / "3.safetensors"), folder / "twice.safetensors")
    tensors = load_file(folder / "4.safetensors")
    save_file({**tensors, "token_ids": tensors["token_ids"] + 1000}, folder / "4.safetensors")
    tensors = load_file(folder / "5.safetensors")
    save_file({**tensors, "hidden_states": tensors["hidden_states"][:, :2].contiguous()}, folder / "5.safetensors")
    with pytest.raises(ManifestError) as raised:
        cache.import_activations(folder, source_format="vllm", model=engine.model, entries=ALL)
    assert {(p.loc, p.kind) for p in raised.value.problems} == {
        *(("0", "unreadable"), ("1", "missing"), ("2", "dtype"), ("twice", "duplicate")),
        *(("4", "vocabulary"), ("5", "entries")),
    }
    out = ["0", "1", "2", "4", "5"]
    run = cache.import_activations(
        folder, source_format="vllm", model=engine.model, entries=ALL, leave_out=out, duplicates="first"
    )
    assert run.n_samples == len(engine.plain) - len(out)


def test_a_file_that_is_not_read_counts_among_the_samples(engine: Engine, cache: Cache, tmp_path: Path) -> None:
    folder = as_vllm(tmp_path / "hs", engine.plain, ALL)
    n_files = len(list(folder.glob("*.safetensors")))
    (folder / "0.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ManifestError, match=f"1 of {n_files} samples cannot be taken in"):
        cache.import_activations(folder, source_format="vllm", model=engine.model, entries=ALL)


def test_requests_that_the_data_set_or_the_list_misses_are_named(engine: Engine, cache: Cache, tmp_path: Path) -> None:
    folder = as_vllm(tmp_path / "hs", engine.plain[:-2], ALL)
    with pytest.raises(ManifestError) as raised:
        cache.import_activations(folder, source_format="vllm", trace=engine.trace.manifest, entries=ALL)
    assert [p.kind for p in raised.value.problems] == ["missing", "missing"]
    assert [re.search(r":(\d+)$", p.loc)[1] for p in raised.value.problems] == ["23", "24"]  # type: ignore[index]
    named = {str(i): one.token_ids.tolist() for i, one in enumerate(engine.plain)}
    listed = requests_file(tmp_path / "requests.jsonl", named)
    with pytest.raises(ManifestError) as raised:
        cache.import_activations(folder, source_format="vllm", model=engine.model, entries=ALL, requests=listed)
    assert [(p.loc, p.kind) for p in raised.value.problems] == [("22", "missing"), ("23", "missing")]


def test_values_that_are_not_finite_are_refused_by_sample_and_can_be_allowed(
    engine: Engine, cache: Cache, tmp_path: Path
) -> None:
    folder = as_vllm(tmp_path / "hs", engine.plain, ALL)
    for name, value in (("3", torch.nan), ("9", torch.inf)):
        tensors = load_file(folder / f"{name}.safetensors")
        tensors["hidden_states"][1, 2, 5] = value
        save_file(tensors, folder / f"{name}.safetensors")
    with pytest.raises(ManifestError) as raised:
        cache.import_activations(folder, source_format="vllm", model=engine.model, entries=ALL)
    assert [(p.loc, p.kind) for p in raised.value.problems] == [("3", "values"), ("9", "values")]
    run = cache.import_activations(folder, source_format="vllm", model=engine.model, entries=ALL, allow_non_finite=True)
    assert np.count_nonzero(~np.isfinite(rows(cache, run, 1)).all(axis=1)) == 2


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({}, "do not say of which layers"),
        ({"entries": [1, 2, 3, 4]}, "no layers of a model with 3 blocks"),
        ({"entries": [1, 2, 3]}, "3 entries are named, the files have 4"),
    ],
)
def test_what_the_files_do_not_say_about_layers_is_asked_for(
    engine: Engine, cache: Cache, tmp_path: Path, said: dict[str, list[int]], message: str
) -> None:
    folder = as_vllm(tmp_path / "hs", engine.plain, ALL)
    n_layers = 3 if said else 7
    with pytest.raises(UsageError, match=message):
        cache.import_activations(folder, source_format="vllm", model="away", n_layers=n_layers, **said)  # type: ignore[arg-type]


def test_the_models_own_values_find_the_offset_and_the_final_norm(engine: Engine, cache: Cache, tmp_path: Path) -> None:
    shifted = as_vllm(tmp_path / "hs", engine.plain, [1, 2])
    with pytest.raises(
        UsageError, match="entry 0 is declared as the output of block 1, by its values it is the output of block 0"
    ):
        cache.import_activations(shifted, source_format="vllm", model=engine.model, entries=[2, 3], verify=4)
    found = cache.import_activations(shifted, source_format="vllm", model=engine.model, verify=4)  # nothing declared
    assert found.sites == {"resid_post": (0, 1)}
    hidden = [(*one.states[:-1, None], one.normed[None]) for one in engine.plain]
    ids = [one.token_ids[None] for one in engine.plain]
    saved = [{"hidden_states": h, "input_ids": i} for h, i in zip(hidden, ids, strict=True)]
    torch.save(saved, tmp_path / "states.pt")
    arguments = {"source_format": "torch", "model": engine.model}
    with pytest.raises(UsageError, match="block's output, or behind the final norm"):
        cache.import_activations(tmp_path / "states.pt", **arguments)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="declared as the output of block 2, by its values it is the final norm"):
        cache.import_activations(tmp_path / "states.pt", last="block", verify=4, **arguments)  # type: ignore[arg-type]
    run = cache.import_activations(tmp_path / "states.pt", verify=4, embedding=True, **arguments)  # type: ignore[arg-type]
    assert run.sites == {"resid_post": (0, 1), "resid_pre": (0,)}
    assert (rows(cache, run, 0, "resid_pre") == rows_of(engine.plain, -1)).all()


def test_another_models_values_are_like_no_layer(engine: Engine, cache: Cache, tmp_path: Path) -> None:
    other = [type(one)(token_ids=one.token_ids, states=one.states.flip(-1), normed=one.normed) for one in engine.plain]
    folder = as_vllm(tmp_path / "hs", other, ALL)
    with pytest.raises(UsageError, match="like no layer of the model"):
        cache.import_activations(folder, source_format="vllm", model=engine.model, entries=ALL, verify=2)


def test_a_speculators_folder_names_the_indices_that_are_missing(engine: Engine, cache: Cache, tmp_path: Path) -> None:
    names = [f"hs_{i}" for i in range(len(engine.plain))]
    (tmp_path / "prepared").mkdir()
    folder = as_vllm(tmp_path / "prepared" / "hidden_states", engine.plain, ALL, names=names)
    run = cache.import_activations(tmp_path / "prepared", source_format="speculators", model=engine.model, entries=ALL)
    assert (rows(cache, run, 2) == rows_of(engine.plain, 2)).all()
    ids = [*(one.token_ids.tolist() for one in engine.plain), [3, 4]]  # the data set beside it has one more
    ids[5] = [7, *ids[5][1:]]
    table = pa.table({"input_ids": ids})
    sink = str(tmp_path / "prepared" / "data-00000-of-00001.arrow")
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(ManifestError) as raised:
        cache.import_activations(tmp_path / "prepared", source_format="speculators", model=engine.model, entries=ALL)
    assert [(p.loc, p.kind) for p in raised.value.problems] == [("hs_24", "missing"), ("hs_5", "tokens")]
    (tmp_path / "prepared" / "data-00000-of-00001.arrow").unlink()
    (folder / "hs_11.safetensors").unlink()
    with pytest.raises(ManifestError) as raised:
        cache.import_activations(tmp_path / "prepared", source_format="speculators", model=engine.model, entries=ALL)
    assert [(p.loc, p.kind) for p in raised.value.problems] == [("hs_11", "missing")]


def test_vllm_lens_responses_are_read_with_their_token_ids(engine: Engine, cache: Cache, tmp_path: Path) -> None:
    path = as_vllm_lens(tmp_path / "responses.jsonl", engine.plain, [0, 2])
    run = cache.import_activations(
        path, source_format="vllm-lens", model=engine.model, entries=[0, 2], dtype="float32", verify=2
    )
    expected = torch.cat([one.states[3] for one in engine.plain]).to(torch.bfloat16).float().numpy()
    assert (rows(cache, run, 2) == expected).all()
    said = json.loads(path.read_text().splitlines()[0])
    said["activations"]["residual_stream"]["shape"][1] = 10**9  # a size that the data does not have
    path.write_text(json.dumps(said) + "\n")
    with pytest.raises((ManifestError, DamagedError)):
        cache.import_activations(path, source_format="vllm-lens", model=engine.model, entries=[0, 2])


def test_sae_lens_activations_say_their_layer(engine: Engine, cache: Cache, tmp_path: Path) -> None:
    n = min(len(one.token_ids) for one in engine.plain)
    same = [type(p)(token_ids=p.token_ids[:n], states=p.states[:, :n], normed=p.normed[:n]) for p in engine.plain]
    folder = as_sae_lens(tmp_path / "acts", same, 1)
    run = cache.import_activations(folder, source_format="sae-lens", model=engine.model, verify=3, duplicates="keep")
    assert run.sites == {"resid_post": (1,)}
    assert (rows(cache, run, 1) == rows_of(same, 1)).all()


@pytest.mark.slow
def test_a_folder_that_sae_lens_itself_wrote_is_read(engine: Engine, cache: Cache, tmp_path: Path) -> None:
    from tests.sae.conftest import sae_lens

    datasets = pytest.importorskip("datasets")
    runner_class = sae_lens.cache_activations_runner.CacheActivationsRunner
    n = min(len(one.token_ids) for one in engine.plain)
    hook = "blocks.2.hook_resid_post"
    runner = object.__new__(runner_class)  # its model would come from the hub: its files are what is read here
    runner.cfg = SimpleNamespace(hook_name=hook, d_in=32, dtype="float32", n_seq_in_buffer=12)
    runner.context_size = n
    values = datasets.Array2D(shape=(n, 32), dtype="float32")
    ids = datasets.Sequence(datasets.Value(dtype="int32"), length=n)
    runner.features = datasets.Features({hook: values, "token_ids": ids})
    for number, part in enumerate((engine.plain[:12], engine.plain[12:])):
        acts = torch.cat([one.states[3, :n] for one in part])
        shard = runner._create_shard((acts, torch.cat([one.token_ids[:n] for one in part])))
        shard.save_to_disk(str(tmp_path / "shards" / f"shard_{number:05d}"), num_shards=1)
    (tmp_path / "acts").mkdir()
    runner_class._consolidate_shards(tmp_path / "shards", tmp_path / "acts")
    run = cache.import_activations(
        tmp_path / "acts", source_format="sae-lens", model=engine.model, verify=4, duplicates="keep"
    )
    expected = torch.cat([one.states[3, :n] for one in engine.plain]).numpy()
    assert (rows(cache, run, 2) == expected).all()


def test_padding_of_a_batch_is_no_row_and_arrays_of_a_folder_are_read(
    engine: Engine, cache: Cache, tmp_path: Path
) -> None:
    few = engine.plain[:4]
    width = max(len(one.token_ids) for one in few)

    def left(one: torch.Tensor) -> torch.Tensor:
        return torch.cat([one.new_zeros(width - len(one), *one.shape[1:]), one])

    mask = torch.stack([left(torch.ones_like(one.token_ids)) for one in few])
    hidden = tuple(torch.stack([left(one.states[e]) for one in few]) for e in range(4))
    ids = torch.stack([left(one.token_ids) for one in few])
    torch.save({"hidden_states": hidden, "input_ids": ids, "attention_mask": mask}, tmp_path / "batch.pt")
    run = cache.import_activations(tmp_path / "batch.pt", source_format="torch", model=engine.model, last="block")
    assert (rows(cache, run, 1) == rows_of(few, 1)).all()
    arrays = tmp_path / "arrays"
    arrays.mkdir()
    for i, one in enumerate(few):
        np.save(arrays / f"s{i}.npy", one.states.numpy())  # (entries, tokens, width)
    listed = requests_file(tmp_path / "r.jsonl", {f"s{i}": one.token_ids.tolist() for i, one in enumerate(few)})
    said = {"requests": listed, "model": engine.model, "entries": ALL, "numbering": "states", "last": "block"}
    run = cache.import_activations(arrays, source_format="npy", **said)  # type: ignore[arg-type]
    assert (rows(cache, run, 2) == rows_of(few, 2)).all()


def test_files_with_code_are_refused_and_do_not_run(engine: Engine, cache: Cache, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (open, (str(tmp_path / "ran"), "w"))  # type: ignore[return-value]

    torch.save({"hidden_states": Evil()}, tmp_path / "evil.pt")
    np.save(tmp_path / "evil.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    (tmp_path / "ran").unlink(missing_ok=True)
    for source_format, path in (("torch", tmp_path / "evil.pt"), ("npy", tmp_path)):
        with pytest.raises(ManifestError) as raised:
            cache.import_activations(path, source_format=source_format, model=engine.model, entries=[1])  # type: ignore[arg-type]
        assert raised.value.problems[0].kind == "unreadable"
    assert not (tmp_path / "ran").exists()
