"""sae-lens' CacheActivationsRunner on one layer of a local model; prints the seconds that `run()` took as JSON.

    python sae_lens_cache.py MODEL_FOLDER TEXTS_FILE OUT_FOLDER DTYPE

It packs texts into contexts without padding; batches have as many tokens as ours, values as many bytes (float16 for
bfloat16, which its files cannot hold), shuffling is off. Loading the model is not timed.
"""

import json
import sys
import time
from pathlib import Path

import torch
from datasets import Dataset
from sae_lens import CacheActivationsRunner, CacheActivationsRunnerConfig
from transformers import AutoTokenizer

CONTEXT, BATCH, LAYER, WIDTH = 64, 32, 15, 576

model_folder, texts_file, out, dtype = sys.argv[1:]
torch_dtype = getattr(torch, dtype)
texts = Path(texts_file).read_text().splitlines()
n_tokens = sum(len(ids) for ids in AutoTokenizer.from_pretrained(model_folder)(texts)["input_ids"])
n_kept = n_tokens // (CONTEXT * BATCH) * CONTEXT * BATCH
config = CacheActivationsRunnerConfig(
    dataset_path=texts_file,
    model_name=model_folder,
    model_class_name="AutoModelForCausalLM",
    model_from_pretrained_kwargs={"torch_dtype": torch_dtype},
    model_batch_size=BATCH,
    hook_name=f"model.layers.{LAYER}",
    d_in=WIDTH,
    training_tokens=n_kept,
    buffer_size_gb=(n_kept + 1) * WIDTH * torch_dtype.itemsize / 1e9,  # one buffer: it always fills whole ones
    context_size=CONTEXT,
    new_cached_activations_path=out,
    shuffle=False,
    dtype="float16" if dtype == "bfloat16" else dtype,
    device="cpu",
    prepend_bos=False,
    streaming=False,
)
runner = CacheActivationsRunner(config, override_dataset=Dataset.from_dict({"text": texts}))
start = time.perf_counter()
runner.run()
print(json.dumps({"seconds": time.perf_counter() - start, "n_tokens": config.training_tokens}))
