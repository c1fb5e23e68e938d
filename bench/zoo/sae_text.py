"""Training text for the SAE that ships: what SmolLM2-135M-Instruct itself writes, at temperature 1, from prompts made here.

    python -m bench.zoo.sae_text --out FOLDER --tokens 1000000

writes `plain.jsonl` and `chat.jsonl` (columns `text`, `system`, `completion`). Batches are drawn by seed and number and are
appended whole, so that the script can be stopped at any time and continues where it stopped.
"""

import argparse
import itertools
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import torch

import steercache
from bench.zoo.decoding import Decoder
from bench.zoo.prompts import Prompt, prompts
from bench.zoo.train import ALLOCATOR, PATIENT

SEED: Final = 20_261_130
ROWS: Final = 192
STEPS: Final = 192
LEAST_STEPS: Final = 48  # a text is begun only if so many steps are left
ENDS: Final = ("<|im_end|>", "<|endoftext|>")

Written = tuple[Prompt, list[int]]


@torch.inference_mode()
def batch(model: Any, tokenizer: Any, *, seed: int, n_rows: int = ROWS, n_steps: int = STEPS) -> list[Written]:
    """The texts of one batch: prompt and the token ids sampled after it, without the end token."""
    source = prompts(seed)
    generator = torch.Generator().manual_seed(seed)
    ends = {tokenizer.convert_tokens_to_ids(name) for name in ENDS}
    decoder = Decoder(model, n_rows=n_rows, n_steps=n_steps)
    rows = [_Row(tokenizer, source) for _ in range(n_rows)]
    drawn = torch.zeros(n_rows, dtype=torch.long)
    found: list[Written] = []
    for step in range(n_steps):
        for i, row in enumerate(rows):
            if row.take(int(drawn[i]), ends):
                found.append((row.prompt, row.said))
                if n_steps - step >= LEAST_STEPS:
                    rows[i] = _Row(tokenizer, source)
                    decoder.begin(i)
        logits = decoder.step(torch.tensor([row.next_token(int(drawn[i])) for i, row in enumerate(rows)]))
        drawn = torch.cat([_sample(part.float(), generator) for part in logits.split(64)])
    return found + [(row.prompt, row.said) for row in rows if row.is_open]


class _Row:
    """One text: the prompt's tokens are read first, what is sampled afterwards is kept."""

    def __init__(self, tokenizer: Any, source: Iterator[Prompt]) -> None:
        self.prompt = next(source)
        self.unread: list[int] = tokenizer(_as_text(tokenizer, self.prompt))["input_ids"][::-1]
        self.said: list[int] = []
        self.is_open = True
        self._fresh = True

    def take(self, drawn: int, ends: set[int]) -> bool:
        """Keep what was sampled, unless the prompt is still being read; whether the text ended with it."""
        if not self.is_open or self.unread or self._fresh:
            return False
        self.is_open = drawn not in ends
        if self.is_open:
            self.said.append(drawn)
        return not self.is_open

    def next_token(self, drawn: int) -> int:
        """The token to be read next."""
        self._fresh = False
        return self.unread.pop() if self.unread else drawn


def _sample(logits: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """One draw per row from softmax(logits): the inverse of the cumulated probabilities."""
    cumulated = logits.softmax(-1).cumsum(-1)
    points = torch.rand(len(logits), 1, generator=generator) * cumulated[:, -1:]
    return torch.searchsorted(cumulated, points).flatten().clamp(max=logits.shape[-1] - 1)


def _as_text(tokenizer: Any, prompt: Prompt) -> str:
    if prompt.form == "plain":
        return prompt.text
    turns = [{"role": "user", "content": prompt.text}]
    if prompt.system is not None:
        turns.insert(0, {"role": "system", "content": prompt.system})
    text: str = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return text


def _state(folder: Path) -> tuple[int, int]:
    """How many batches were written whole, and their tokens; what a killed batch left is cut off."""
    path = folder / "state.json"
    if not path.is_file():
        return 0, 0
    state = json.loads(path.read_text())
    for form, size in state["sizes"].items():
        with (folder / f"{form}.jsonl").open("r+b") as file:
            file.truncate(size)
    return state["batches"], state["tokens"]


def write(folder: Path, *, n_tokens: int, model: Any, tokenizer: Any) -> None:
    """Generate until `n_tokens` were written, or until the process is stopped."""
    paths = {form: folder / f"{form}.jsonl" for form in ("plain", "chat")}
    for path in paths.values():
        path.touch()
    first, done = _state(folder)
    start, before = time.monotonic(), done
    for number in itertools.count(first):
        if done >= n_tokens:
            return
        for prompt, ids in batch(model, tokenizer, seed=SEED + number):
            row = {"text": prompt.text, "system": prompt.system, "completion": tokenizer.decode(ids)}
            if not ids or "\ufffd" in row["completion"]:  # nothing said, or half a character at the end
                continue
            done += len(ids)
            with paths[prompt.form].open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        sizes = {form: path.stat().st_size for form, path in paths.items()}
        part = folder / "state.part"
        part.write_text(json.dumps({"batches": number + 1, "tokens": done, "sizes": sizes, "seed": SEED}))
        part.replace(folder / "state.json")
        print(f"batch {number}: {done} tokens, {(done - before) / (time.monotonic() - start):.0f} tokens/s", flush=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.zoo.sae_text", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=1_000_000)
    args = parser.parse_args()
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ |= {"GLIBC_TUNABLES": ALLOCATOR, **PATIENT}
        os.execv(sys.executable, [sys.executable, "-m", "bench.zoo.sae_text", *sys.argv[1:]])
    args.out.mkdir(parents=True, exist_ok=True)
    loaded = steercache.load("smollm2-135m", dtype="bfloat16", device="cpu", root=args.out / "cache")
    write(args.out, n_tokens=args.tokens, model=loaded.model, tokenizer=loaded.tokenizer)


if __name__ == "__main__":
    main()
