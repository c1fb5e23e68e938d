"""The questions of a benchmark that a screening may look at."""

from steercache.benchmarks.task import EncodedQuestion, Progress, ask, pick_rows
from steercache.core.errors import PartlyFailedError
from steercache.data.benchmarks.questions import Benchmark
from steercache.models.spec import TokenizerBundle


def search_questions(
    benchmark: Benchmark, bundle: TokenizerBundle, *, n: int | None, progress: Progress | None = None
) -> tuple[EncodedQuestion, ...]:
    """A benchmark's search split as the model reads it; `n` questions (None: all).

    Raises:
        PartlyFailedError: no question can be encoded.
    """
    asked = ask(pick_rows(benchmark, "search", n=n, orphans="search"), bundle, split="search", progress=progress)
    if all(one.encoded is None for one in asked):
        raise PartlyFailedError(
            f"none of the {len(asked)} questions can be asked; the first: {asked[0].error}", place=asked[0].place
        )
    return asked


def name_of_task(benchmark: Benchmark) -> str:
    """The benchmark, and its task where it is one."""
    tasks = {e.labels.meta["task"] for e in benchmark}
    return f"{benchmark.name} {next(iter(tasks)) if len(tasks) == 1 else ''}".strip()
