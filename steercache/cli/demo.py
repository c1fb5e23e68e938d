"""`steercache demo`: the whole paper in miniature, as the commands that a person would type, one after the other."""

import io
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import click

from steercache.cli.demo_steps import Shown, Step, picture_steps, sae_steps, text_steps
from steercache.cli.options import root_option
from steercache.cli.output import GUIDED, at_root, next_commands, note
from steercache.core.durations import duration_text

AGAIN_S: Final = 2.0  # a step whose results are in the cache
PAGE: Final = "demo.html"


@dataclass(slots=True, kw_only=True)
class Guide:
    """Runs commands of the program in this process, showing each before it runs and keeping what it prints."""

    program: click.Command
    root: Path
    printed: list[str] = field(default_factory=list)

    def __call__(self, *words: str) -> Any:
        """Run one command, and return what it returns. Errors end the demo as they would end the command."""
        click.secho(f"$ steercache {shlex.join(words)}", fg="cyan")
        with _kept(self.printed):
            result = self.program.main(
                args=[*words, "--root", str(self.root)], prog_name="steercache", standalone_mode=False, obj=GUIDED
            )
        click.echo()
        return result

    @property
    def pictures(self) -> Path:
        """Where pictures and pages go."""
        return self.root / "pictures"


class _Tee(io.TextIOBase):
    """What is written to it goes to a stream and is kept; everything else is the stream's."""

    def __init__(self, stream: Any) -> None:
        self._stream, self.text = stream, ""

    def write(self, text: str) -> int:
        self.text += text
        self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return bool(self._stream.isatty())

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding or "utf-8"


@contextmanager
def _kept(printed: list[str]) -> Iterator[None]:
    tee = _Tee(sys.stdout)
    with redirect_stdout(tee):
        yield
    printed.append(click.unstyle(tee.text))


@click.command()
@click.option("--text-only", is_flag=True, help="Leave out the second half, with pictures.")
@root_option
@click.pass_context
def demo(context: click.Context, root: Path, text_only: bool) -> None:
    """Run the paper in miniature on models that ship with it: text vectors, fitted from a cache, steer a multimodal model.

    A few minutes on two cores; every step is a command that you can type yourself. Run again, it reads what is cached and
    takes seconds. At the end there is one HTML page with everything.

    \b
    steercache demo
    steercache demo --text-only
    """
    guide = Guide(program=context.find_root().command, root=root)
    click.echo("SmolLM2-135M, and the demo model grown from it, which sees drawn scenes; everything on this machine.")
    steps = text_steps(own_dtype())
    if has_sae_lens():
        steps += sae_steps(own_dtype())
    else:
        note("the step with features of a sparse autoencoder is left out: sae-lens is not installed")
    if not text_only:
        steps += picture_steps(("--dtype", quick_dtype()))
    page = run_steps(guide, steps)
    where = at_root(root)
    click.secho(f"Open {page} in a browser: every table, picture and page of this demo.", bold=True)
    next_commands(
        f"steercache query --list{where}",
        f"steercache vectors show counting{where}",
        f"steercache grid demo-count --nulls 20{where}",
        f"steercache plan demo-scenes{where}",
    )


def run_steps(guide: Guide, steps: Sequence[Step]) -> Path:
    """Run every step, print its meaning and the time left, and write the page. Returns its path."""
    from steercache.api.demo import PageStep, save_demo_page

    clock = Forecast(guide.root, steps)
    click.echo(f"{clock.sentence()}\n")
    told: list[PageStep] = []
    began = time.monotonic()
    for number, step in enumerate(steps, start=1):
        click.secho(f"{number}/{len(steps)}  {step.title}", bold=True)
        first, started = len(guide.printed), time.monotonic()
        for words in step.commands:
            guide(*words, *_out(guide, step, words))
        outputs = tuple(guide.printed[first:])
        meaning = step.meaning(Shown(outputs=outputs, rows=_rows_of(guide.root)))
        took = time.monotonic() - started
        clock.done(step, took)
        click.secho(meaning, fg="green")
        left = "" if number == len(steps) else f", about {duration_text(clock.left_s())} left"
        click.echo(f"({took:.1f} s{left})\n")
        told.append(
            PageStep(
                title=step.title,
                commands=tuple(f"steercache {shlex.join(words)}" for words in step.commands),
                outputs=outputs,
                meaning=meaning,
                seconds=took,
                pictures=tuple(guide.pictures / name for name in step.pictures),
                page=None if step.page is None else guide.pictures / step.page,
            )
        )
    click.echo(f"Done in {time.monotonic() - began:.0f} s. {cache_sentence(guide.printed)}")
    return save_demo_page(told, guide.pictures / PAGE)


def _out(guide: Guide, step: Step, words: Sequence[str]) -> tuple[str, ...]:
    """Where a report goes; nothing for other commands."""
    if words[0] != "report":
        return ()
    name = step.page if words[1] == "html" else step.pictures[0]
    return ("--out", str(guide.pictures / str(name)))


def _rows_of(root: Path) -> Any:
    from steercache.api.cache import open_cache_at

    return lambda sql: open_cache_at(root).sql(sql).fetchall()


def cache_sentence(printed: Sequence[str]) -> str:
    """One sentence: what was read from the cache and what was computed."""
    cached = sum("cached already" in text or "0 computed" in text for text in printed)
    return f"{cached} of {len(printed)} commands found all their results in the cache." if cached else ""


class Forecast:
    """What the demo should take on this machine, and what is left of it.

    Before a step has run here, its seconds are those of the reference machine, scaled by the speed of matrix products; what
    the steps before took corrects them. A step that finished in this cache before takes as long as it took when it was read.
    """

    def __init__(self, root: Path, steps: Sequence[Step]) -> None:
        from steercache.api.demo import finished_steps

        self._root, self._steps = root, tuple(steps)
        self.read = finished_steps(root, [step.key for step in steps])
        scale = machine_scale() if len(self.read) < len(steps) else 1.0
        self._expected = {s.key: AGAIN_S if s.key in self.read else s.cpu_s * scale for s in steps}
        self._finished: dict[str, float] = {}

    @property
    def expected_s(self) -> float:
        """Seconds of all steps, as expected before the first."""
        return sum(self._expected.values())

    def sentence(self) -> str:
        """The estimate, in words."""
        n = len(self.read)
        of = f"; {n} of them ran here before and are read from the cache" if n else ""
        return f"{len(self._steps)} steps, about {duration_text(self.expected_s)} on this machine{of}."

    def done(self, step: Step, seconds: float) -> None:
        """A step is finished; it will be read the next time."""
        from steercache.api.demo import record_step

        self._finished[step.key] = seconds
        record_step(self._root, step.key, seconds)

    def left_s(self) -> float:
        """Seconds of the steps to come: as expected, times what those behind took of theirs."""
        open_s = sum(s for key, s in self._expected.items() if key not in self._finished)
        planned_s = sum(self._expected[key] for key in self._finished)
        took_s = sum(self._finished.values())
        return open_s * (took_s / planned_s if planned_s and took_s else 1.0)


def has_sae_lens() -> bool:
    """Whether the extra `sae` is installed."""
    from steercache.api.demo import has_sae_lens

    return has_sae_lens()


def machine_scale() -> float:
    """Seconds here for a second of one core of the reference machine."""
    from steercache.api.demo import machine_scale

    return machine_scale()


def quick_dtype() -> str:
    """The dtype to ask questions in: the model's own on a GPU; on a CPU float32, without the near-ties of bfloat16."""
    from steercache.api.demo import on_gpu

    return "auto" if on_gpu() else "float32"


def own_dtype() -> tuple[str, ...]:
    """Nothing where models run well in the dtype of their weights; on a CPU that emulates bfloat16, `--dtype float32`."""
    from steercache.api.demo import bfloat16_is_slow

    return ("--dtype", "float32") if bfloat16_is_slow() else ()
