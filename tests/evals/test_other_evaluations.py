"""Steered models in lm-eval, inspect_ai and lmms-eval: real runs on local tasks, against loops of our own."""

import json
import os
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from transformers import LlavaForConditionalGeneration, LlavaProcessor

import steercache
from tests.evals.text_world import ALPHAS, CHAT, LAYER, NEW, QUESTIONS, TextWorld, log_p, write_text_world
from tests.models.tiny_images import write_tiny_images

REPOSITORY = Path(__file__).resolve().parents[2]
EVALS = REPOSITORY / ".venv-evals" / "bin" / "python"
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TextWorld]:
    return write_text_world(tmp_path_factory.mktemp("evals"))


def run(script: str, folder: Path) -> Any:
    """What a script prints, in the environment of `make evals`, without a network, with this checkout's entry points."""
    assert EVALS.exists(), "make evals"
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    info = folder / "entry" / "steercache_here-0.dist-info"  # as an installation of this checkout has them
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: steercache-here\nVersion: 0\n")
    names = "".join(f"{name} = {where}\n" for name, where in project["entry-points"]["inspect_ai"].items())
    (info / "entry_points.txt").write_text(f"[inspect_ai]\n{names}")
    own = {"PYTHONPATH": f"{REPOSITORY}{os.pathsep}{info.parent}", "HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1"}
    command = [EVALS, "-W", "ignore", Path(__file__).with_name(script), folder]
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, env=os.environ | own, cwd=folder
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(next(line for line in reversed(done.stdout.splitlines()) if line.startswith("{")))


def test_lm_eval_scores_a_steered_model_as_a_loop_by_hand_does(world: TextWorld) -> None:
    found = run("with_lm_eval.py", world.folder)
    assert found["2.0"]["accuracy"] == 1.0
    assert 0.4 < found["0.0"]["accuracy"] < 0.95
    assert found["-2.0"]["accuracy"] < 0.3
    for alpha in ALPHAS:
        for question, given in list(zip(QUESTIONS, found[str(alpha)]["log_p"], strict=True))[::5]:
            expected = [log_p(world, question, answer, alpha=alpha) for answer in (" good", " bad")]
            assert given == pytest.approx(expected, abs=2e-3)


def test_inspect_finds_the_provider_and_its_answers_are_those_of_generate(world: TextWorld) -> None:
    found = run("with_inspect.py", world.folder)
    turns = [
        world.loaded.tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
        )
        for text in CHAT
    ]
    for alpha, said in found.items():
        for turn, text in zip(turns, said["texts"], strict=True):
            ids = world.loaded.tokenizer(turn, add_special_tokens=False, return_tensors="pt")
            with (
                torch.inference_mode(),
                steercache.steer(world.loaded.model, world.vector, layer=LAYER, alpha=float(alpha), when="every"),
            ):
                out = world.loaded.model.generate(**ids, max_new_tokens=NEW, do_sample=False)
            assert text == world.loaded.tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
        hits = [("good" in text.lower()) for text in said["texts"]]
        assert said["accuracy"] == pytest.approx(np.mean(hits))
    assert len({tuple(said["texts"]) for said in found.values()}) == 3


UTILS = """
import PIL.Image
def visual(doc): return [PIL.Image.open(doc["image"]).convert("RGB")]
def text(doc, kwargs=None): return doc["question"]
def results(doc, results): return {"hit": float(results[0] == doc["answer"])}
"""
TASK = """
task: tiny_pictures
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
output_type: generate_until
doc_to_visual: !function utils.visual
doc_to_text: !function utils.text
doc_to_target: answer
process_results: !function utils.results
generation_kwargs: {max_new_tokens: 5}
metric_list: [{metric: hit, aggregation: mean, higher_is_better: true}]
"""


def test_lmms_eval_runs_its_own_model_steered_on_the_picture_tokens(tmp_path: Path) -> None:
    model = write_tiny_images("llava", tmp_path / "model")
    values = np.random.default_rng(2).normal(size=(3, 32)).astype(np.float32) * 3
    vector = steercache.SteeringVector(
        name="made", method="random", concept=None, site="resid_post", layers=(0, 1, 2), values=values
    )
    steercache.open(tmp_path / "root", create=True).save(vector)
    loaded = LlavaForConditionalGeneration.from_pretrained(model, dtype="float32").eval()
    processor = LlavaProcessor.from_pretrained(model)
    pictures = np.random.default_rng(1).integers(0, 256, size=(6, 32, 32, 3), dtype=np.uint8)

    @torch.inference_mode()
    def answers(alpha: float) -> list[str]:
        made = []
        for pixels in pictures:
            turn = (
                "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
            )
            turn += "detailed, and polite answers to the user's questions. USER: <image>\nwhat is it? ASSISTANT:"
            inputs = processor(images=[PIL.Image.fromarray(pixels)], text=turn, return_tensors="pt")
            with steercache.steer(loaded, vector, layer=1, alpha=alpha, target="image"):
                out = loaded.generate(**inputs, max_new_tokens=5, do_sample=False, pad_token_id=2, eos_token_id=2)
            made.append(processor.tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
        return made

    plain, moved = answers(0.0), answers(3.0)
    assert plain != moved
    folder = tmp_path / "task"
    folder.mkdir()
    rows = []
    for i, (pixels, answer) in enumerate(zip(pictures, plain, strict=True)):  # the unsteered answers are right
        PIL.Image.fromarray(pixels).save(folder / f"{i}.png")
        rows.append({"image": str(folder / f"{i}.png"), "question": "what is it?", "answer": answer})
    (folder / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "utils.py").write_text(UTILS)
    (folder / "tiny_pictures.yaml").write_text(TASK.replace("FILE", str(folder / "q.jsonl")))
    found = run("with_lmms_eval.py", tmp_path)
    assert found["before"] == found["zero"] == {"score": 1.0, "texts": plain}
    assert found["steered"]["texts"] == moved
    assert found["steered"]["score"] == np.mean([a == b for a, b in zip(plain, moved, strict=True)])
