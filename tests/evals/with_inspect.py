"""Run by tests/evals in the environment of `make evals`: the provider `steercache` through inspect_ai. Prints JSON."""

import json
import sys
from pathlib import Path

import inspect_ai
from inspect_ai.dataset import json_dataset
from inspect_ai.scorer import includes
from inspect_ai.solver import generate

folder = Path(sys.argv[1])
settings = json.loads((folder / "settings.json").read_text())
task = inspect_ai.Task(
    dataset=json_dataset(str(folder / "chat.jsonl")), solver=generate(max_tokens=settings["new"]), scorer=includes()
)
found = {}
for alpha in settings["chat_alphas"]:
    steering = "" if alpha == 0 else f"&vector=pleased&layer={settings['layer']}&alpha={alpha}&phase=both"
    model = f"steercache/{settings['model']}?root={folder / 'root'}&dtype=float32{steering}"
    (log,) = inspect_ai.eval(task, model=model, log_dir=str(folder / "logs"), display="none")
    assert log.status == "success", log.error
    found[str(alpha)] = {
        "accuracy": log.results.scores[0].metrics["accuracy"].value,
        "texts": [one.output.completion for one in log.samples],
    }
print(json.dumps(found))
