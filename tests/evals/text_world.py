"""SmolLM2-135M, a vector from pleased to displeased sentences, and local questions, as files that other packages can read."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import steercache
from steercache.core.vectors import FittedOn
from steercache.models.spec import LoadedModel

LAYER, ALPHAS, NEW = 8, (0.0, 2.0, -2.0), 12
PAIRS = (
    ("I loved every minute of it, it was wonderful", "I hated every minute of it, it was terrible"),
    ("What a beautiful and happy day", "What an awful and sad day"),
    ("The food was excellent and the staff kind", "The food was disgusting and the staff rude"),
    ("She was delighted with the great result", "She was devastated by the poor result"),
    ("They praised the brilliant performance", "They criticised the dreadful performance"),
    ("It is the best thing that I have seen", "It is the worst thing that I have seen"),
)
THINGS = ("film", "book", "meal", "journey", "concert", "hotel", "party", "lesson", "garden", "speech", "match", "song")
QUESTIONS = [f"{lead} the {thing} was" for thing in THINGS for lead in ("I think that", "Everybody said that")]
CHAT = [f"How was the {thing}? Answer in one sentence." for thing in THINGS[:4]]
TASK = """
task: feelings
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: answer
target_delimiter: ""
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


@dataclass(frozen=True, kw_only=True)
class TextWorld:
    """A folder with `root`, `task`, `chat.jsonl` and `settings.json`; the model and the vector in memory."""

    folder: Path
    loaded: LoadedModel
    vector: steercache.SteeringVector


def write_text_world(folder: Path) -> TextWorld:
    """Everything that the three scripts read."""
    cache = steercache.open(folder / "root", create=True)
    loaded = cache.model("smollm2-135m", dtype="float32")
    vector = fit(loaded)
    cache.save(vector)
    (checkpoint,) = {path.parent for path in (folder / "root" / "models").rglob("*.safetensors")}
    (folder / "task").mkdir()
    rows = [{"question": question, "choices": [" good", " bad"], "answer": 0} for question in QUESTIONS]
    (folder / "task" / "feelings.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "task" / "feelings.yaml").write_text(TASK.replace("FILE", str(folder / "task" / "feelings.jsonl")))
    (folder / "chat.jsonl").write_text("".join(json.dumps({"input": text, "target": "good"}) + "\n" for text in CHAT))
    settings = {"model": str(checkpoint), "layer": LAYER, "alphas": ALPHAS, "chat_alphas": (0, 4, -4), "new": NEW}
    (folder / "settings.json").write_text(json.dumps(settings))
    return TextWorld(folder=folder, loaded=loaded, vector=vector)


@torch.inference_mode()
def fit(loaded: LoadedModel) -> steercache.SteeringVector:
    """Mean difference over the sentences' tokens but the first."""

    def rows(text: str) -> torch.Tensor:
        out = loaded.model(**loaded.tokenizer(text, return_tensors="pt"), output_hidden_states=True)
        return torch.stack([hidden[0, 1:].mean(0) for hidden in out.hidden_states[1:-1]])

    values = torch.stack([rows(pleased) - rows(not_pleased) for pleased, not_pleased in PAIRS]).mean(0)
    spec = loaded.spec
    return steercache.SteeringVector(
        name="pleased",
        method="mean_shift",
        concept="sentiment",
        site="resid_post",
        layers=tuple(range(len(values))),
        values=values.numpy().astype(np.float32),
        fitted_on=FittedOn(name=spec.name, fingerprint=spec.fingerprint, modality="text"),
    )


@torch.inference_mode()
def log_p(world: TextWorld, question: str, answer: str, *, alpha: float) -> float:
    """Log probability of an answer, from one sequence at a time."""
    tokenizer, model = world.loaded.tokenizer, world.loaded.model
    n_question, ids = len(tokenizer(question).input_ids), tokenizer(question + answer).input_ids
    with steercache.steer(model, world.vector, layer=LAYER, alpha=alpha):
        scores = model(torch.tensor([ids[:-1]])).logits[0].log_softmax(-1)
    return float(sum(scores[i - 1, ids[i]] for i in range(n_question, len(ids))))
