"""Run by the peers' environment: exported files in the hands of repeng and of steering-vectors, on a model of transformers.

python with_transformers.py MODEL_FOLDER {repeng|steering_vectors} FILE STRENGTH IDS_JSON OUT_NPY
"""

import json
import sys

import numpy as np
import torch
from transformers import AutoModelForCausalLM

folder, tool, file, strength, ids, out = sys.argv[1:]
torch.set_num_threads(1)
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
inputs = torch.tensor(json.loads(ids))
with torch.inference_mode():
    if tool == "repeng":
        np.float_ = np.float64  # type: ignore[attr-defined]  # repeng 0.4 names it at import; numpy 2 has it no more
        from repeng import ControlModel, ControlVector

        vector = ControlVector.import_gguf(file)
        controlled = ControlModel(model, list(vector.directions))
        controlled.set_control(vector, float(strength))
        logits = controlled(inputs).logits
    else:
        from steering_vectors import SteeringVector

        vector = SteeringVector(**torch.load(file, weights_only=True))
        with vector.apply(model, multiplier=float(strength)):
            logits = model(inputs).logits
np.save(out, logits.numpy())
