"""The exported script, run as it is by a Python that has not imported steercache: its hidden states against ours."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from steercache.core.vector_use import VectorUse
from steercache.exchange.vectors.exporting import export_vector
from steercache.steering.live import steer
from tests.exchange.vector_cases import some_vector
from tests.tiny import write_tiny_model

IDS = [[1, 5, 9, 4, 12]]
DRIVER = """
import sys
import torch
from transformers import AutoModelForCausalLM
import {name} as script
model = AutoModelForCausalLM.from_pretrained(sys.argv[1]).eval()
script.steer(model)
with torch.inference_mode():
    prompt = model(torch.tensor({ids}), use_cache=True)
    step = model(torch.tensor([[7]]), past_key_values=prompt.past_key_values)
torch.save((prompt.logits, step.logits), sys.argv[2])
assert "steercache" not in sys.modules
"""


@pytest.mark.slow
@pytest.mark.parametrize(("phase", "when"), [("prompt", "prefill"), ("both", "every")])
def test_the_script_steers_as_we_do_bit_for_bit(tmp_path: Path, phase: str, when: str) -> None:
    folder = write_tiny_model(tmp_path / "model")
    vector = some_vector(
        layers=(0, 2), width=32, fitted_on=None, use=VectorUse(phase=phase, layers=(0, 2), strength=0.7)
    )  # type: ignore[arg-type]
    export_vector(vector, tmp_path / "steer_by_hand.py", to="pytorch")
    (tmp_path / "driver.py").write_text(DRIVER.format(name="steer_by_hand", ids=IDS))
    command = [sys.executable, str(tmp_path / "driver.py"), str(folder), str(tmp_path / "out.pt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    theirs = torch.load(tmp_path / "out.pt", weights_only=True)

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.inference_mode(), steer(model, vector, layer=(0, 2), alpha=0.7, when=when):  # type: ignore[arg-type]
        prompt = model(torch.tensor(IDS), use_cache=True)
        step = model(torch.tensor([[7]]), past_key_values=prompt.past_key_values)
    with torch.inference_mode():
        plain = model(torch.tensor(IDS)).logits
    assert torch.equal(theirs[0], prompt.logits)
    assert torch.equal(theirs[1], step.logits)
    assert not torch.allclose(prompt.logits, plain, atol=1e-3)

    command = [sys.executable, str(tmp_path / "steer_by_hand.py"), str(folder), "the cat is on"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("the cat is on ")


def test_projecting_out_and_clamping_in_the_script_are_the_formulas(tmp_path: Path) -> None:
    h = np.random.default_rng(2).standard_normal((1, 3, 16)).astype(np.float32)
    for operation, parameters, component in (("project_out", {}, 0.0), ("clamp", {"value": 2.5}, 2.5)):
        use = VectorUse(operation=operation, parameters=parameters, phase="both", layers=(1,))  # type: ignore[arg-type]
        vector = some_vector(layers=(1,), use=use)
        export_vector(vector, tmp_path / f"{operation}.py", to="pytorch")
        block = torch.nn.Identity()
        model = torch.nn.Module()
        model.base_model = torch.nn.Module()  # type: ignore[assignment]
        model.base_model.layers = torch.nn.ModuleList([torch.nn.Identity(), block])
        names = {"__name__": "script", "__file__": str(tmp_path / f"{operation}.py")}
        exec((tmp_path / f"{operation}.py").read_text(), names)
        names["steer"](model)  # type: ignore[operator]
        steered = block(torch.from_numpy(h)).numpy()
        unit = vector.at(1) / np.linalg.norm(vector.at(1))
        np.testing.assert_allclose(steered @ unit, component, atol=1e-5)
        rest = h - (h @ unit)[..., None] * unit
        np.testing.assert_allclose(steered - (steered @ unit)[..., None] * unit, rest, atol=1e-5)
