"""Run by the environment of evaluation packages: lm-eval's model `steered` on a task of a local file.

python with_lm_eval.py MODEL_FOLDER STEER_PT TASK_FOLDER OUT_JSON
"""

import json
import sys
from pathlib import Path

import lm_eval
from lm_eval.tasks import TaskManager

folder, steer, tasks, out = sys.argv[1:]
arguments = f"pretrained={folder},steer_path={steer},device=cpu,dtype=float32"
results = lm_eval.simple_evaluate(
    model="steered",
    model_args=arguments,
    tasks=["places"],
    task_manager=TaskManager(include_path=tasks, include_defaults=False),
    log_samples=True,
    bootstrap_iters=0,
)
samples = sorted(results["samples"]["places"], key=lambda sample: sample["doc_id"])
likelihoods = [[float(one[0]) for one in sample["filtered_resps"]] for sample in samples]
Path(out).write_text(json.dumps({"acc": results["results"]["places"]["acc,none"], "likelihoods": likelihoods}))
