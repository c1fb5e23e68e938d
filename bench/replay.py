"""The grid: branched against the published loop, against a batched loop of full forwards, and against what FLOPs allow.

The demo's Idefics3 over SmolLM2-135M in bfloat16 (with a random tower as long as its own is not there), 16 layers of 30, seven
strengths, image tokens, 16 samples. The loops take turns with ours over a part of the cells that goes through all layers; what
is compared is time per cell and sample. Screening: 16 layers x 10,000 vectors x 500 samples of width 576.
"""

import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from bench.turns import Row, row_of
from steercache.models.families import family_of
from steercache.models.spec import LoadedModel, ModelSpec, TokenizerBundle
from steercache.steer.add import add_vector
from steercache.steer.branch import BranchOptions, branch
from steercache.steer.cells import BranchCell, CellAnswers
from steercache.steer.decode import Start, decode_greedily, end_ids
from steercache.steer.prefill import read_prompts
from steercache.steer.screen import Screen, each_layer_shifts, mean_shifts, predict
from steercache.trace.batches import PaddedBatch
from steercache.zoo.demo.assemble import make_model, make_processor, make_tokenizer
from steercache.zoo.demo.shape import SIDE
from steercache.zoo.smollm2 import load_smollm2, load_smollm2_tokenizer

LAYERS, N_ALPHAS, N_SAMPLES, N_NEW, TURNS = range(5, 21), 7, 16, 4, int(os.environ.get("BENCH_TURNS", "3"))
THINGS = ["cat", "ball", "tree", "house", "boat", "star", "clock", "small red umbrella"]
PART = slice(3, None, 8)  # every eighth cell: 14 of 112, each in another layer


def demo_model() -> LoadedModel:
    """The demo's shape around the real SmolLM2; what it sees does not matter for how long it takes."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer(load_smollm2_tokenizer())
    model = make_model(load_smollm2(), tokenizer).requires_grad_(False)
    spec = ModelSpec(
        name="demo",
        model_id="demo",
        fingerprint="",
        family="idefics3",
        modality="image",
        backbone=None,
        n_layers=30,
        hidden_size=576,
        vision_size=None,
        vocab_size=49156,
        dtype="bfloat16",
        attention="sdpa",
        tokenizer_digest="",
    )
    bundle = TokenizerBundle(
        tokenizer=tokenizer,
        processor=make_processor(tokenizer),
        config=model.config,
        family=family_of(model.config.to_dict()),
        spec=spec,
    )
    return LoadedModel(model=model, bundle=bundle)


def encode(loaded: LoadedModel, which: Sequence[int]) -> dict[str, torch.Tensor]:
    """Questions in the form of CV-Bench about pictures of noise, padded on the left, as the ordinary processor gives them."""
    texts, pictures = [], []
    for i in which:
        one, two = THINGS[i % 8], THINGS[(i * 3 + 1) % 8]
        body = (
            "Answer by the letter only.\nConsidering the relative positions, where is the "
            f"{one} (red box) with respect to the {two}? Select from the following choices.\n(A) left\n(B) right"
        )
        turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": body}]}]
        texts.append(loaded.processor.apply_chat_template(turn, add_generation_prompt=True))  # type: ignore[union-attr]
        pictures.append([np.random.default_rng(i).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)])
    made: Any = loaded.processor
    out = made(text=texts, images=pictures, padding=True, padding_side="left", return_tensors="pt")
    return {n: x.to(torch.bfloat16) if x.is_floating_point() else x for n, x in out.items()}


def batch_of(inputs: dict[str, torch.Tensor]) -> PaddedBatch:
    """The same as trace's batch."""
    mask = inputs["attention_mask"]
    lengths = tuple(mask.sum(1).tolist())
    return PaddedBatch(
        input_ids=inputs["input_ids"],
        attention_mask=mask,
        starts=tuple(mask.shape[1] - n for n in lengths),
        lengths=lengths,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        pixels={n: x for n, x in inputs.items() if n.startswith("pixel_")},
    )


def grid(target: Any) -> list[BranchCell]:
    """16 layers x 7 strengths of one direction per layer."""
    rng = np.random.default_rng(0)
    directions = {layer: rng.normal(size=576).astype(np.float32) for layer in LAYERS}
    return [
        BranchCell(key=f"{layer}@{a}", layer=layer, delta_d=np.float32(a * 0.15) * directions[layer], target=target)
        for layer in LAYERS
        for a in range(1, N_ALPHAS + 1)
    ]


@contextmanager
def hooked(loaded: LoadedModel, cell: BranchCell) -> Iterator[None]:
    """The way it is done by hand: a hook that adds in the prefill."""
    delta, image_id = torch.from_numpy(cell.delta_d), loaded.model.config.image_token_id
    ids: list[torch.Tensor] = []

    def see(module: Any, args: Any, kwargs: Any) -> None:
        ids[:] = [kwargs["input_ids"]]

    def add(module: Any, args: Any, out: torch.Tensor) -> torch.Tensor | None:
        if out.shape[1] == 1:
            return None
        is_image = ids[0] == image_id
        mask = is_image if cell.target == "image" else ~is_image & (ids[0] > 16) & (ids[0] < 49152)
        return add_vector(out, delta, mask)

    handles = [
        loaded.model.register_forward_pre_hook(see, with_kwargs=True),
        loaded.model.model.text_model.layers[cell.layer].register_forward_hook(add),
    ]
    yield
    for handle in handles:
        handle.remove()


@torch.inference_mode()
def loop(loaded: LoadedModel, cells: Sequence[BranchCell], inputs: list[dict[str, torch.Tensor]]) -> list[Any]:
    """`generate` for every cell and every encoding."""
    said = []
    ends = end_ids(loaded)
    for cell in cells:
        for encoding in inputs:
            with hooked(loaded, cell):
                out = loaded.model.generate(
                    **encoding, max_new_tokens=N_NEW, do_sample=False, eos_token_id=sorted(ends)
                )
            rows = out[:, encoding["input_ids"].shape[1] :].tolist()
            said += [tuple(takewhile(lambda token: token not in ends, row)) for row in rows]
    return said


@torch.inference_mode()
def full_loop(loaded: LoadedModel, cells: Sequence[BranchCell], batch: PaddedBatch) -> list[Any]:
    """A batched loop of full forwards at its best: logits by a list of columns (see steer.prefill), decoding without waste."""
    said = []
    ends = end_ids(loaded)
    prompts = read_prompts(loaded, batch)
    for cell in cells:
        cache: Any = DynamicCache(config=loaded.model.config)
        with hooked(loaded, cell):
            out = loaded.model(**prompts.inputs, past_key_values=cache, use_cache=True, logits_to_keep=prompts.columns)
        first_r = out.logits[:, -1].float().argmax(-1)
        positions = prompts.tokens.real_bt.sum(1)
        start = Start(cache=cache, real_rt=prompts.tokens.real_bt, first_r=first_r, next_r=positions)
        more = decode_greedily(loaded, start, n_more=N_NEW - 1, ends=ends)
        rows = torch.cat([first_r[:, None], more.tokens_rn], dim=1).tolist()
        said += [tuple(takewhile(lambda token: token >= 0 and token not in ends, row)) for row in rows]
    return said


def flops_of(loaded: LoadedModel, cells: Sequence[BranchCell], batch: PaddedBatch) -> tuple[float, float]:
    """Multiply-adds of a full forward per cell and of branching, from the sizes of blocks and tower alone."""
    block = sum(p.numel() for p in loaded.model.model.text_model.layers[0].parameters())
    tower = sum(p.numel() for p in loaded.model.model.vision_model.encoder.parameters())
    n_layers, n_tokens = 30, batch.input_ids.shape[1]
    image = batch.input_ids == loaded.model.config.image_token_id
    tower_work = tower * 100
    after = block * n_layers * (N_NEW - 1)
    full = tower_work + block * n_layers * n_tokens + after
    ours = tower_work + block * n_layers * n_tokens + after
    for cell in cells:
        start = int((image if cell.target == "image" else ~image & (batch.input_ids > 16)).any(0).nonzero()[0, 0])
        ours += block * (n_layers - 1 - cell.layer) * (n_tokens - start) + after
    return float(full * len(cells)), float(ours)


def seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def bench_grid(loaded: LoadedModel, target: str) -> list[Row]:
    """Three ways through the grid, in turns."""
    cells, inputs = grid(target), encode(loaded, range(N_SAMPLES))
    batch, singles = batch_of(inputs), [encode(loaded, [i]) for i in range(0, N_SAMPLES, 8)]
    part, options = cells[PART], BranchOptions(max_new_tokens=N_NEW)
    list(branch(loaded, batch, part[:2], options))
    loop(loaded, part[:1], singles[:1])
    published, batched = [], []
    answers: dict[str, CellAnswers] = {}
    for _ in range(TURNS):
        ours_s, found = seconds(lambda: {a.key: a for a in branch(loaded, batch, cells, options)})
        answers = found
        published_s, said_alone = seconds(lambda: loop(loaded, part, singles))
        batched_s, said = seconds(lambda: full_loop(loaded, part, batch))
        per_pair = ours_s / (len(cells) * N_SAMPLES)
        published.append((per_pair, published_s / (len(part) * len(singles))))
        batched.append((per_pair, batched_s / (len(part) * N_SAMPLES)))
    full, needed = flops_of(loaded, cells, batch)
    bound = full / needed
    ratio = statistics.median(p / o for o, p in batched)
    unequal = differing(part, answers, said, range(N_SAMPLES))
    unequal_alone = differing(part, answers, said_alone, range(0, N_SAMPLES, 8))
    name = f"grid on {target} tokens"
    rows = [
        row_of(f"{name} / published loop", published, target=">= 6", faster=True)
        | {"flop_ratio": bound}
        | unequal_alone,
        row_of(f"{name} / batched full forwards", batched, target=">= 1.6", faster=True)
        | {"flop_ratio": bound}
        | unequal,
    ]
    share = {
        "name": f"{name} / bound from FLOPs",
        "ratio": ratio / bound,
        "target": ">= 0.75",
        "met": ratio / bound >= 0.75,
    }
    return [*rows, share]


def differing(part: Sequence[BranchCell], answers: dict[str, CellAnswers], said: list[Any], samples: range) -> Row:
    """How many answers differ from the loop's, and how many of those are no near-ties."""
    pairs = [(cell.key, i) for cell in part for i in samples]
    unequal = [(key, i) for (key, i), row in zip(pairs, said, strict=True) if answers[key].tokens[i] != row]
    clear = [(key, i) for key, i in unequal if not bool(answers[key].near_tie_b[i])]
    return {"n_answers": len(pairs), "n_unequal": len(unequal), "n_unequal_clear": len(clear)}


def bench_screening() -> list[Row]:
    """From gradients in memory to the effect of every vector: their mean, and sample by sample."""
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(16, 500, 2, 576)).astype(np.float32)
    gradients[:, :, 1] = -gradients[:, :, 0]
    margins = rng.normal(size=(500, 1)).astype(np.float32) * np.array([[1, -1]], np.float32)
    vectors = rng.normal(size=(10_000, 576)).astype(np.float32)
    screen = Screen(
        layers=tuple(LAYERS),
        gradient_of=lambda layer: gradients[layer - LAYERS[0]],
        margins=margins,
        right=np.zeros(500, np.int64),
    )
    predict(screen, vectors[:100], [0.1])
    mean_s = statistics.median(seconds(lambda: mean_shifts(screen, vectors))[0] for _ in range(TURNS))
    every_s = statistics.median(seconds(lambda: _by_sample(screen, vectors))[0] for _ in range(TURNS))
    effect_s = statistics.median(seconds(lambda: predict(screen, vectors, [0.2]))[0] for _ in range(TURNS))
    curve_s, _ = seconds(lambda: predict(screen, vectors[:1000], [0.1, 0.2, 0.4, 0.6, 0.8, 1.0]))
    what = "screening, 16 layers x 10,000 vectors x 500 samples"
    return [
        {"name": f"{what}, mean", "value_s": mean_s, "target": "< 2", "met": mean_s < 2},
        {"name": f"{what}, every sample", "value_s": every_s, "target": "< 2", "met": every_s < 2},
        {
            "name": f"{what}, shift, accuracy, helped and hurt at a strength",
            "value_s": effect_s,
            "target": "< 2",
            "met": effect_s < 2,
        },
        {
            "name": "accuracy curves, 16 x 1,000 x 500, 6 strengths",
            "value_s": curve_s,
            "target": "< 60",
            "met": curve_s < 60,
        },
    ]


def _by_sample(screen: Screen, vectors: np.ndarray[Any, Any]) -> list[Any]:
    """Of every sample's shift the largest of each vector: something has to be read of each layer before the next."""
    return [shifts.max(axis=0) for _, shifts in each_layer_shifts(screen, vectors)]


def run() -> Iterator[Row]:
    """All rows, each when it is measured."""
    yield from bench_screening()
    loaded = demo_model()
    for target in ("image", "text"):
        yield from bench_grid(loaded, target)


if __name__ == "__main__":
    import json

    for row in run():
        print(json.dumps(row), flush=True)
