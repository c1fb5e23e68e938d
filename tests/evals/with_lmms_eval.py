"""Run by tests/evals in the environment of `make evals`: a model that lmms-eval loaded, steered. Prints JSON."""

import json
import sys
from contextlib import ExitStack
from pathlib import Path

from lmms_eval.evaluator import simple_evaluate
from lmms_eval.models.simple.llava_hf import VICUNA_CHAT_TEMPLATE, LlavaHf
from lmms_eval.tasks import TaskManager

import steercache

folder = Path(sys.argv[1])
vector = steercache.open(folder / "root").vector("made")
tasks = TaskManager(include_path=str(folder / "task"))


def answered(*, alpha: float | None) -> dict[str, object]:
    """The score, and every text; lmms-eval takes its model apart after an evaluation, so each has one of its own."""
    lm = LlavaHf(
        pretrained=str(folder / "model"),
        device="cpu",
        device_map="cpu",
        dtype="float32",
        batch_size=1,
        chat_template=VICUNA_CHAT_TEMPLATE,
    )
    with ExitStack() as stack:
        if alpha is not None:
            stack.enter_context(steercache.steered(lm.model, vector, layer=1, alpha=alpha, target="image"))
        result = simple_evaluate(
            model=lm, tasks=["tiny_pictures"], task_manager=tasks, log_samples=True, bootstrap_iters=0, batch_size=1
        )
    samples = sorted(result["samples"]["tiny_pictures"], key=lambda one: one["doc_id"])
    return {
        "score": result["results"]["tiny_pictures"]["hit,none"],
        "texts": [one["resps"][0][0] for one in samples],
    }


print(json.dumps({"before": answered(alpha=None), "zero": answered(alpha=0.0), "steered": answered(alpha=3.0)}))
