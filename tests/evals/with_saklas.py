"""In the environment of `make evals`: a profile that steercache wrote, read and written again by saklas' own code."""

import json
import sys
from pathlib import Path

from saklas.core.profile import Profile

folder = Path(sys.argv[1])
profile = Profile.load(folder / "ours.safetensors")
profile.save(folder / "theirs.safetensors")
print(json.dumps({str(layer): profile[layer].tolist() for layer in profile.layers}))
