"""Run by tests/evals in the environment of `make evals`: a steered model through lm-eval, unchanged. Prints JSON."""

import json
import sys
from pathlib import Path

import lm_eval
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, AutoTokenizer

import steercache

folder = Path(sys.argv[1])
settings = json.loads((folder / "settings.json").read_text())
tokenizer = AutoTokenizer.from_pretrained(settings["model"])
model = AutoModelForCausalLM.from_pretrained(settings["model"], dtype="float32").eval()
vector = steercache.open(folder / "root").vector("pleased")
tasks = TaskManager(include_path=str(folder / "task"), include_defaults=False)
found = {}
for alpha in settings["alphas"]:
    steered = steercache.steered(model, vector, layer=settings["layer"], alpha=alpha)
    lm = HFLM(pretrained=steered, tokenizer=tokenizer, batch_size=8)
    result = lm_eval.simple_evaluate(
        model=lm, tasks=["feelings"], task_manager=tasks, log_samples=True, bootstrap_iters=0
    )
    samples = sorted(result["samples"]["feelings"], key=lambda one: one["doc_id"])
    found[str(alpha)] = {
        "accuracy": result["results"]["feelings"]["acc,none"],
        "log_p": [[answer[0][0] for answer in one["resps"]] for one in samples],
    }
print(json.dumps(found))
