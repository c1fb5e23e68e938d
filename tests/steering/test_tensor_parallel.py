"""A model that transformers' tensor parallelism spreads over two processes: steered between blocks, refused inside them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

SCRIPT = """
import sys
import numpy as np
import torch
import steercache
from steercache.core.errors import UsageError
from steercache.core.vectors import SteeringVector
from transformers import AutoModelForCausalLM

folder, ids = sys.argv[1], torch.arange(12)[None] * 7 % 128
def made(site):
    values = np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32)
    return SteeringVector(name="v", method="made", concept=None, site=site, layers=(0, 1, 2), values=values, provenance={})

logits = {}
for name, how in (("whole", {}), ("spread", {"tp_plan": "auto"})):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **how).eval()
    with torch.inference_mode(), steercache.steer(model, made("resid_post"), layer=1, alpha=3.0, target="all"):
        logits[name] = model(input_ids=ids).logits
    with torch.inference_mode():
        assert (model(input_ids=ids).logits - logits[name]).abs().max() > 0.01, "the vector does something"
torch.testing.assert_close(logits["spread"], logits["whole"], rtol=1e-4, atol=1e-5)
assert not torch.equal(logits["spread"], logits["whole"]), "sums over two processes are rounded otherwise"
try:
    with steercache.steer(model, made("head_out"), layer=1, alpha=3.0, target="all"):
        model(input_ids=ids)
except UsageError as error:
    assert "tensor parallelism" in str(error), error
    print("REFUSED")
"""


@pytest.mark.slow
def test_residual_streams_are_steered_in_every_process_and_outputs_of_heads_are_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "vocab_size": 128}
    config = LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "llama")
    script = tmp_path / "spread.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script]
    env = {**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, tmp_path / "llama"], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("REFUSED") == 2
