"""What the card of the SAE that ships says: its health on text that it was not trained on.

    python -m bench.zoo.sae_health store FOLDER --from TRAINED
    python -m bench.zoo.sae_health texts FOLDER --root CACHE --from TEXTS --to HELD_OUT
    python -m bench.zoo.sae_health measure FOLDER --root CACHE --texts HELD_OUT

The first copies what `steercache sae train` left, its weights in float16: half the size, and nothing measurable is lost. The
second writes the samples that training held out as data files of their own, with a trace manifest; the third traces them and
writes `health.json` into the SAE's folder.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import yaml
from safetensors.torch import load_file, save_file

import steercache
from steercache.sae.training_rows import training_rows

FORMS: Final = ("plain", "chat")
N_OF_EACH: Final = 25
N_BATCHES: Final = 7  # of sae_text that the shipped SAE was trained on
NAME: Final = "smollm2-own-text-held-out"
_HELD_OUT = """
SELECT DISTINCT dataset, ordinal
FROM samples JOIN tokens USING (run_id, sample_idx)
WHERE run_id = $run AND row_idx IN (SELECT unnest($rows))
ORDER BY dataset, ordinal
"""


def provenance(folder: Path) -> dict[str, Any]:
    """What the SAE's configuration says of its training."""
    found: dict[str, Any] = json.loads((folder / "cfg.json").read_text())["metadata"]["steercache"]
    return found


def store(trained: Path, folder: Path) -> None:
    """Configuration and weights, in float16; they load in float32."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = load_file(trained / "sae_weights.safetensors")
    save_file(
        {name: tensor.half() if tensor.ndim == 2 else tensor.float() for name, tensor in weights.items()},
        folder / "sae_weights.safetensors",
    )
    (folder / "cfg.json").write_text(json.dumps(json.loads((trained / "cfg.json").read_text()), indent=1) + "\n")


def write_texts(folder: Path, *, root: Path, source: Path, target: Path, n: int = N_OF_EACH) -> None:
    """The first `n` held-out samples of each form."""
    ours = provenance(folder)
    cache = steercache.open(root)
    rows = training_rows(
        cache.session,
        ours["run_id"],
        layer=ours["layer"],
        held_out=ours["settings"]["held_out"],
        max_norm_ratio=ours["settings"]["max_norm_ratio"],
        seed=ours["settings"]["seed"],
    )
    found = cache.sql(_HELD_OUT, run=ours["run_id"], rows=rows.held_out.tolist()).fetchall()
    target.mkdir(parents=True, exist_ok=True)
    for form in FORMS:
        lines = (source / f"{form}.jsonl").read_text(encoding="utf-8").splitlines()
        chosen = [lines[ordinal] for dataset, ordinal in found if dataset == form][:n]
        (target / f"{form}.jsonl").write_text("".join(f"{line}\n" for line in chosen), encoding="utf-8")
    manifest = yaml.safe_load((Path(__file__).parent / "trace.yaml").read_text())
    (target / "trace.yaml").write_text(yaml.safe_dump({**manifest, "name": NAME}, sort_keys=False))


def measure(folder: Path, *, root: Path, texts: Path) -> dict[str, Any]:
    """The health by kind of row, and the loss recovered, over the texts."""
    ours = provenance(folder)
    cache = steercache.open(root, create=True)
    run = cache.build(texts / "trace.yaml", device="cpu", dtype="bfloat16", progress=False)
    health = cache.sae_health(folder, run=run, model="smollm2-135m", device="cpu", n_texts=2 * N_OF_EACH)
    assert health.loss is not None
    loss = asdict(health.loss) | {"recovered": health.loss.recovered, "from_mean": health.loss.recovered_from_mean}
    return {
        "model": "smollm2-135m",
        "layer": ours["layer"],
        "n_features": health.n_features,
        "sae_id": health.sae_id,
        "n_training_rows": ours["n_training_rows"],
        "n_batches": N_BATCHES,
        "settings": ours["settings"],
        "held_out": {row["kind"]: _rounded(row) for row in health.records()},
        "loss": _rounded(loss),
    }


def _rounded(record: dict[str, Any]) -> dict[str, Any]:
    return {name: round(value, 5) if isinstance(value, float) else value for name, value in record.items()}


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.zoo.sae_health", description=__doc__)
    parser.add_argument("what", choices=["store", "texts", "measure"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--root", type=Path, default=Path("cache"))
    parser.add_argument("--from", dest="source", type=Path, help="the trained SAE, or the folder of the training text")
    parser.add_argument("--to", dest="target", type=Path, help="the folder of the held-out text")
    parser.add_argument("--texts", type=Path, help="the folder of the held-out text")
    args = parser.parse_args(argv)
    if args.what == "store":
        store(args.source, args.folder)
        return
    if args.what == "texts":
        write_texts(args.folder, root=args.root, source=args.source, target=args.target)
        return
    found = measure(args.folder, root=args.root, texts=args.texts)
    (args.folder / "health.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
