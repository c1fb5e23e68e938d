"""Run by the peers' environment: `steering_vectors.train_steering_vector` on pairs of texts, every layer, last token.

python with_steering_vectors.py MODEL_FOLDER PAIRS_JSON OUT_NPZ
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from steering_vectors import train_steering_vector
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, pairs, out = sys.argv[1:]
torch.set_num_threads(1)
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
samples = [tuple(pair) for pair in json.loads(Path(pairs).read_text())]
vector = train_steering_vector(
    model, AutoTokenizer.from_pretrained(folder), samples, read_token_index=-1, batch_size=4, show_progress=False
)
np.savez(out, **{str(layer): values.numpy() for layer, values in vector.layer_activations.items()})
