"""Run by tests/evals in the environment of `make evals`: a model that lmms-eval loaded, steered. Prints JSON."""

import json
import sys
from pathlib import Path

from lmms_eval.evaluator import simple_evaluate
from lmms_eval.models.simple.llava_hf import LlavaHf
from lmms_eval.tasks import TaskManager

import steercache

folder = Path(sys.argv[1])
vector = steercache.open(folder / "root").vector("made")
lm = LlavaHf(pretrained=str(folder / "model"), device="cpu", device_map="cpu", dtype="float32", batch_size=1)
tasks = TaskManager(include_path=str(folder / "task"))


def answered() -> dict[str, object]:
    """The score, and every text."""
    result = simple_evaluate(
        model=lm, tasks=["tiny_pictures"], task_manager=tasks, log_samples=True, bootstrap_iters=0, batch_size=1
    )
    samples = sorted(result["samples"]["tiny_pictures"], key=lambda one: one["doc_id"])
    return {
        "score": result["results"]["tiny_pictures"]["hit,none"],
        "texts": [one["resps"][0][0] for one in samples],
    }


found = {"before": answered()}
with steercache.steered(lm.model, vector, layer=1, alpha=3.0, target="image"):
    found["steered"] = answered()
found["after"] = answered()
print(json.dumps(found))
