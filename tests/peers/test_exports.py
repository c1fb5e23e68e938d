"""Exported vectors in the hands of those who read them: their steered states against a forward pass that is steered here."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from steercache.core.vector_use import VectorUse
from steercache.core.vectors import SteeringVector
from steercache.exchange.vectors.exporting import export_vector
from steercache.steering.live import steer
from steercache.zoo.smollm2 import gguf_folder, load_smollm2
from steercache.zoo.source import GGUF_NAME
from tests.exchange.vector_cases import some_vector
from tests.peers.test_steering_vectors import PEERS, REPOSITORY, for_transformers_4
from tests.tiny import WORDS, write_tiny_model

EVALS = REPOSITORY / ".venv-evals" / "bin" / "python"
IDS = [[1, 5, 9, 4, 12, 7, 3]]


def vector_of(**changes: Any) -> SteeringVector:
    """A vector that does not say its model, so that nothing warns of another one."""
    return some_vector(fitted_on=None, **changes)


def run(python: Path, script: str, *arguments: object, make: str = "peers") -> None:
    assert python.exists(), f"make {make}"
    command = [python, Path(__file__).with_name(script), *arguments]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [str(one) for one in command], capture_output=True, text=True, check=False, env=os.environ | offline
    )
    assert done.returncode == 0, done.stderr[-3000:]


def steered_logits(model: Any, vector: SteeringVector, *, strength: float, ids: list[list[int]]) -> np.ndarray:
    with torch.inference_mode(), steer(model, vector, layer=vector.layers, alpha=strength, target="all"):
        logits: np.ndarray = model(torch.tensor(ids)).logits.numpy()
    return logits


def apart(one: np.ndarray, other: np.ndarray) -> float:
    """Distance in norms of the second."""
    return float(np.linalg.norm(one - other) / np.linalg.norm(other))


@pytest.mark.slow
def test_llama_cpp_steers_the_shipped_smollm2_at_the_block_that_we_mean(tmp_path: Path) -> None:
    """llama.cpp multiplies 4-bit weights with 8-bit activations, so it differs by some percent with and without a vector;
    at a neighbouring block the difference is several times that."""
    model = load_smollm2(dtype=torch.float32)
    ids = [504, 2644, 314, 335, 260, 2527, 284, 260]
    layers = (1, 14, 29)
    generator = np.random.default_rng(0)
    inputs = torch.tensor([ids])
    with torch.inference_mode():
        rows = model.model(inputs, output_hidden_states=True).hidden_states
        plain = model.model(inputs).last_hidden_state[0].numpy()
    jobs: list[list[Any]] = [["plain", None, ids]]
    vectors = {}
    for layer in layers:
        scale = float(rows[layer + 1][0, 1:].norm(dim=-1).median()) if layer < 29 else 60.0
        values = generator.standard_normal((1, 576)).astype(np.float32)
        values *= 2 * scale / np.linalg.norm(values)
        vectors[layer] = vector_of(layers=(layer,), values=values, use=VectorUse(phase="both", layers=(layer,)))
        export_vector(vectors[layer], tmp_path / f"{layer}.gguf")
        jobs.append([str(layer), str(tmp_path / f"{layer}.gguf"), ids])
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    run(PEERS, "with_llama_cpp.py", gguf_folder() / GGUF_NAME, tmp_path / "jobs.json", tmp_path / "out.npz")
    theirs = np.load(tmp_path / "out.npz")

    noise = apart(theirs["plain"], plain)
    assert noise < 0.1
    for layer in layers:
        found = {}
        for block in (layer - 1, layer, layer + 1):
            if block > 29:
                continue
            moved = vector_of(layers=(block,), values=vectors[layer].values, use=None)
            with torch.inference_mode(), steer(model, moved, layer=block, alpha=1.0, target="all"):
                found[block] = apart(theirs[str(layer)], model.model(inputs).last_hidden_state[0].numpy())
        assert found[layer] < 0.1, (layer, found, noise)
        assert all(found[layer] * 2 < other for block, other in found.items() if block != layer), (layer, found)
        effect = apart(theirs[str(layer)], plain)
        assert effect > 2 * max(noise, found[layer]), (layer, effect, found, noise)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tool", "to", "name"), [("repeng", "easysteer", "v.gguf"), ("steering_vectors", "steering-vectors", "v.pt")]
)
def test_repeng_and_steering_vectors_steer_as_we_do(tmp_path: Path, tool: str, to: str, name: str) -> None:
    folder = write_tiny_model(tmp_path / "model")
    vector = vector_of(layers=(0, 2), width=32, use=VectorUse(phase="both", layers=(0, 2), strength=0.7))
    export_vector(vector, tmp_path / name, to=to)
    old = for_transformers_4(folder, tmp_path / "model4")
    run(PEERS, "with_transformers.py", old, tool, tmp_path / name, 0.7, json.dumps(IDS), tmp_path / "out.npy")
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    ours = steered_logits(model, vector, strength=0.7, ids=IDS)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), ours, rtol=1e-4, atol=1e-5)
    assert apart(ours, steered_logits(model, vector, strength=0.0, ids=IDS)) > 0.05


@pytest.mark.slow
@pytest.mark.parametrize("operation", ["add", "project_out"])
def test_lm_eval_steers_a_local_task_as_we_do(tmp_path: Path, operation: str) -> None:
    folder = write_tiny_model(tmp_path / "model")
    use = VectorUse(operation=operation, phase="both", layers=(1,), strength=1.0)  # type: ignore[arg-type]
    vector = vector_of(layers=(1,), width=32, use=use)
    export_vector(vector, tmp_path / "v.pt", to="lm-eval")
    questions = [
        {"question": "the cat is", "choices": ["on", "under", "near"], "answer": 0},
        {"question": "two dog ran left of the", "choices": ["box", "ball red", "chair"], "answer": 2},
    ]
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "places.jsonl").write_text("".join(json.dumps(one) + "\n" for one in questions))
    task = {
        "task": "places",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tasks / "places.jsonl")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc"}],
    }
    (tasks / "places.yaml").write_text(json.dumps(task))  # JSON is YAML
    run(EVALS, "with_lm_eval.py", folder, tmp_path / "v.pt", tasks, tmp_path / "out.json", make="evals")
    theirs = json.loads((tmp_path / "out.json").read_text())

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    number = {word: 3 + at for at, word in enumerate(WORDS)}
    unit = torch.from_numpy(vector.at(1) / np.linalg.norm(vector.at(1)))
    expected = []
    for one in questions:
        row = []
        for choice in one["choices"]:  # type: ignore[attr-defined]
            context = [number[word] for word in str(one["question"]).split()]
            said = [number[word] for word in choice.split()]
            if operation == "add":
                logits = steered_logits(model, vector, strength=1.0, ids=[context + said])
            else:
                hook = model.model.layers[1].register_forward_hook(lambda m, a, h: h - (h @ unit)[..., None] * unit)
                with torch.inference_mode():
                    logits = model(torch.tensor([context + said])).logits.numpy()
                hook.remove()
            log_p = torch.from_numpy(logits[0]).log_softmax(-1)
            row.append(sum(float(log_p[len(context) - 1 + at, token]) for at, token in enumerate(said)))
        expected.append(row)
    np.testing.assert_allclose(theirs["likelihoods"], expected, rtol=1e-4)
    best = [int(np.argmax(row)) == one["answer"] for row, one in zip(expected, questions, strict=True)]
    assert theirs["acc"] == np.mean(best)
