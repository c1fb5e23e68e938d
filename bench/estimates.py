"""Announced against real time of jobs: `python -m bench.estimates [JOB...]`, each twice into one fresh cache.

A job announces how long its parts should take (`core.activity`); a part ends when the next one is announced. Both clocks are
the CPU time of this process on one thread, so that a busy machine does not decide. The first job of a kind has measured costs
only; the second one has what the first left in `calibration.json`. Target: a factor of 1.5 either way.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

TARGET = 1.5


@dataclass(frozen=True, slots=True)
class Part:
    """Something that was announced: what, how long it should take (None: not known), and how long it took, in seconds."""

    what: str
    announced_s: float | None
    took_s: float


def parts_of(work: Callable[[], object], *, clock: Callable[[], float]) -> list[Part]:
    """Run `work` and split its time at its announcements."""
    from steercache.core.activity import listening

    heard: list[tuple[str, float | None, float]] = []
    with listening(lambda what, seconds: heard.append((what, seconds, clock()))):
        work()
    ends = [*(at for _, _, at in heard[1:]), clock()]
    return [Part(what, seconds, end - at) for (what, seconds, at), end in zip(heard, ends, strict=True)]


def ratio_of(parts: list[Part]) -> tuple[float, float, float]:
    """Announced and real seconds of the parts that were estimated, and the one over the other."""
    known = [part for part in parts if part.announced_s is not None]
    announced, took = sum(part.announced_s or 0.0 for part in known), sum(part.took_s for part in known)
    return announced, took, announced / took if took else float("nan")


def jobs(folder: Path) -> dict[str, Callable[[int], object]]:
    """What is tried, by name; called with 0 and with 1."""
    import steercache

    cache = steercache.open(folder / "cache", create=True)
    questions = [
        {"question": f"{i} cats and {j} dogs live here. How many animals are that?", "choices": [f"{i + j}", f"{i + j + 1}"],
         "answer": f"{i + j}"} for i in range(2, 12) for j in range(2, 10)
    ]  # fmt: skip
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))

    def evaluate(model: str, benchmark: str, i: int, **more: object) -> object:
        known = {"layers": (8, 12), "alphas": (0.1 + 0.1 * i, 0.3), "alpha_unit": "resid_norm", "controls": 3, "n": 24}
        return cache.evaluate(model, benchmark, vectors=["counting"], damage=False, **(known | more))  # type: ignore[arg-type]

    def build(name: str, i: int) -> object:
        if i:
            cache.remove(name)
        return cache.build(name)

    def grid(name: str) -> object:
        return cache.sweep(name).run(damage=False)

    def begin(i: int) -> object:
        built = build("smollm2-concepts", i)
        cache.fit("mean_shift", concept="counting")
        return built

    return {
        "build text": begin,
        "build images": lambda i: build("demo-pictures", i),
        "eval of options": lambda i: evaluate("demo", "scenes", i, task="Relation"),
        "eval in free text": lambda i: evaluate("demo", "scenes", i, task="Attribute", form="word", max_new_tokens=20),
        "eval of a text model": lambda i: evaluate("smollm2-135m", str(folder / "questions.jsonl"), i),
        "demo grid": lambda i: grid("demo-count" if i else "demo-relation"),
    }


def run(names: list[str]) -> Iterator[dict[str, object]]:
    """One row for each job and turn."""
    import torch

    torch.set_num_threads(1)
    time.perf_counter = time.monotonic = time.process_time  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as folder:
        for name, job in jobs(Path(folder)).items():
            if names and name not in names and name != "build text":
                continue
            for i, turn in enumerate(("fresh cache", "second job")):
                parts = parts_of(lambda job=job, i=i: job(i), clock=time.process_time)  # type: ignore[misc]
                announced, took, ratio = ratio_of(parts)
                met = 1 / TARGET <= ratio <= TARGET
                yield {"job": name, "turn": turn, "announced": announced, "took": took, "ratio": ratio, "met": met}
                for part in parts:
                    print(f"      {part}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    for row in run(sys.argv[1:]):
        numbers = f"announced {row['announced']:7.1f} s, took {row['took']:7.1f} s: {row['ratio']:.2f}"
        print(f"{row['job']:22} {row['turn']:12} {numbers}", flush=True)
