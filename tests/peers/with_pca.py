"""Run by the peers' environment: directions of repeng and of steering-vectors' PCA aggregator on pairs of texts, last token.

python with_pca.py MODEL_FOLDER PAIRS_JSON OUT_NPZ; repeng reads `hidden_states`, whose last entry is behind the final norm,
so that its last block is left out.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from steering_vectors import train_steering_vector
from steering_vectors.aggregators import pca_aggregator
from transformers import AutoModelForCausalLM, AutoTokenizer

np.float_ = np.float64  # type: ignore[attr-defined]  # repeng 0.4 names it at import; numpy 2 has it no more
from repeng import ControlVector, DatasetEntry  # noqa: E402

folder, pairs, out = sys.argv[1:]
torch.set_num_threads(1)
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
tokenizer = AutoTokenizer.from_pretrained(folder)
samples = [tuple(pair) for pair in json.loads(Path(pairs).read_text())]
blocks = list(range(model.config.num_hidden_layers - 1))
found = {}
for method in ("pca_diff", "pca_center"):
    entries = [DatasetEntry(positive=positive, negative=negative) for positive, negative in samples]
    trained = ControlVector.train(model, tokenizer, entries, method=method, hidden_layers=blocks, batch_size=4)
    found |= {f"repeng {method} {layer}": values for layer, values in trained.directions.items()}
vector = train_steering_vector(
    model,
    tokenizer,
    samples,
    read_token_index=-1,
    batch_size=4,
    aggregator=pca_aggregator(),
    show_progress=False,
)
found |= {f"steering-vectors pca_center {layer}": v.numpy() for layer, v in vector.layer_activations.items()}
np.savez(out, **found)
