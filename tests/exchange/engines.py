"""What other engines write, made from plain transformers: folders in exactly their layouts (no engine runs here)."""

import base64
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer


@dataclass(frozen=True, kw_only=True)
class Plain:
    """One text by plain forward hooks: `states` is (layers + 1, t, d), the embedding and every block's output; `normed` (t, d)
    is the last of transformers' hidden states."""

    token_ids: torch.Tensor
    states: torch.Tensor
    normed: torch.Tensor


def plainly(folder: Path, texts: list[str]) -> list[Plain]:
    """Every text alone through the model in `folder`."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    last: list[torch.Tensor] = []
    hook = model.model.layers[-1].register_forward_hook(
        lambda m, args, out: last.append(out[0] if isinstance(out, tuple) else out)
    )
    found = []
    with torch.no_grad():
        for text in texts:
            ids = tokenizer(text, return_tensors="pt").input_ids
            hidden = model(ids, output_hidden_states=True).hidden_states
            states = torch.cat([*hidden[:-1], last.pop().reshape(hidden[0].shape)])
            found.append(Plain(token_ids=ids[0], states=states, normed=hidden[-1][0]))
    hook.remove()
    return found


def as_vllm(folder: Path, samples: list[Plain], ids: list[int], *, names: list[str] | None = None) -> Path:
    """As ExampleHiddenStatesConnector writes: `<request id>.safetensors` with `hidden_states` (tokens, ids, width) and
    `token_ids` (int64), a lock file beside it. vllm-project/vllm@015a95c8,
    vllm/distributed/kv_transfer/kv_connector/v1/example_hidden_states_connector.py (`_submit_async_write`)."""
    folder.mkdir()
    for i, one in enumerate(samples):
        path = folder / f"{names[i] if names else i}.safetensors"
        states = one.states[ids].transpose(0, 1).contiguous()
        save_file({"hidden_states": states, "token_ids": one.token_ids.clone()}, path)
        Path(f"{path}.lock").touch()
    return folder


def as_vllm_lens(path: Path, samples: list[Plain], blocks: list[int]) -> Path:
    """As a vllm-lens server answers /v1/completions with `return_token_ids`, one response a line.
    UKGovernmentBEIS/vllm-lens@7d252f7d, vllm_lens/_helpers/_serialize.py (`serialize_tensor`)."""
    lines = []
    for i, one in enumerate(samples):
        array = one.states[[b + 1 for b in blocks]].to(torch.bfloat16).view(torch.int16).numpy()
        data = base64.b64encode(pa.compress(array.tobytes(), codec="zstd", asbytes=True)).decode("ascii")
        stream = {"data": data, "dtype": "int16", "original_dtype": "torch.bfloat16", "shape": list(array.shape)}
        choice = {"index": 0, "prompt_token_ids": one.token_ids.tolist(), "token_ids": [5]}
        activations = {"residual_stream": {**stream, "compression": "zstd"}}
        lines.append(json.dumps({"id": f"cmpl-{i}", "choices": [choice], "activations": activations}))
    path.write_text("\n".join(lines) + "\n")
    return path


def as_sae_lens(folder: Path, samples: list[Plain], block: int) -> Path:
    """As CacheActivationsRunner consolidates (sae_lens 6.54, cache_activations_runner.py): Arrow streams of lists of lists,
    named by `state.json`; all sequences have one length. Written with pyarrow; a slow test runs SAELens' own code."""
    folder.mkdir()
    half = len(samples) // 2
    files = []
    for number, part in enumerate((samples[:half], samples[half:])):
        hook = [one.states[block + 1].tolist() for one in part]
        ids = [one.token_ids.tolist() for one in part]
        table = pa.table(
            {
                f"blocks.{block}.hook_resid_post": pa.array(hook, pa.list_(pa.list_(pa.float32()))),
                "token_ids": pa.array(ids, pa.list_(pa.int32(), len(ids[0]))),
            }
        )
        name = f"data-{number:05d}-of-00002.arrow"
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        files.append({"filename": name})
    (folder / "state.json").write_text(json.dumps({"_data_files": files, "_fingerprint": "0"}))
    return folder


def requests_file(path: Path, named: dict[str, list[int]]) -> Path:
    """A list of requests."""
    path.write_text("".join(json.dumps({"id": key, "token_ids": ids}) + "\n" for key, ids in named.items()))
    return path


def rows_of(samples: list[Plain], block: int) -> np.ndarray:
    """The outputs of a block for all samples, one behind the other, (rows, d)."""
    return torch.cat([one.states[block + 1] for one in samples]).numpy()
