"""`steercache demo`: the whole paper in miniature, as the commands that a person would type, one after the other."""

import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from steercache.cli.options import root_option
from steercache.cli.output import GUIDED, at_root, next_commands
from steercache.core.ids import SHORT_ID

LAYER = 6
# Chosen, like the layer, after a scan over concepts and layers; one of them does nothing here.
SHOWN = ("counting", "temporal", "spatial_relationship")
LOOK = "select concept, count(*) filter (is_anchor) as anchors, count(*) filter (is_control) as controls "
LOOK += (
    "from tokens join samples using (run_id, sample_idx) where concept is not null and run_id = (select run_id from runs"
    " where name = 'smollm2-concepts' order by created_at desc limit 1) group by concept order by concept"
)
TASKS = (("demo-relation", "Relation", "letter"), ("demo-count", "Count", "number"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Guide:
    """Runs commands of the program in this process, showing each before it runs. `quick` is the dtype to ask questions in,
    `own` the option that models are traced and steered with."""

    program: click.Command
    root: Path
    quick: str
    own: tuple[str, ...] = ()
    pictures: list[Path] = field(default_factory=list)

    def __call__(self, *words: str) -> Any:
        """Run one command, and return what it returns. Errors end the demo as they would end the command."""
        click.secho(f"$ steercache {shlex.join(words)}", fg="cyan")
        result = self.program.main(
            args=[*words, "--root", str(self.root)], prog_name="steercache", standalone_mode=False, obj=GUIDED
        )
        click.echo()
        return result

    def draw(self, name: str, *words: str) -> None:
        """Run a command that draws a picture, into the cache's `pictures/`."""
        path = self.root / "pictures" / f"demo-{name}"
        self(*words, "--out", str(path))
        self.pictures.append(path)


@click.command()
@click.option("--text-only", is_flag=True, help="Leave out the second half, with pictures.")
@root_option
@click.pass_context
def demo(context: click.Context, root: Path, text_only: bool) -> None:
    """Run the paper in miniature on models that ship with it: text vectors, fitted from a cache, steer a multimodal model.

    Minutes on two cores; every step is a command that you can type yourself. Again, it reads what is cached.

    \b
    steercache demo
    """
    started = time.monotonic()
    guide = Guide(program=context.find_root().command, root=root, quick=quick_dtype(), own=own_dtype())
    click.echo("SmolLM2-135M, and the demo model grown from it, which sees drawn scenes; everything on this machine.\n")
    text_side(guide)
    if not text_only:
        picture_side(guide)
    click.echo(f"done in {time.monotonic() - started:.0f} s. The cache is {root}; pictures and pages to look at:")
    for picture in guide.pictures:
        click.echo(f"  {picture}")
    where = at_root(root)
    next_commands(
        f"steercache cache status{where}",
        f"steercache query --list{where}",
        f"steercache vectors show counting{where}",
        f"steercache zoo card demo{where}",
        f"steercache plan demo-scenes{where}",
    )


def text_side(guide: Guide) -> None:
    """From a text model's activations to vectors that change what it says."""
    with step("1. trace every layer of a language model once, into the cache"):
        guide("build", "smollm2-concepts", *guide.own)
        guide("build", "smollm2-colours", *guide.own)
    with step("2. activations are rows: ask in SQL"):
        guide("query", LOOK)
    with step("3. fit vectors for all 30 layers, from the cache, without the model"):
        guide("fit", "mean-shift", "--all-concepts", "--run", "smollm2-concepts")
        red = ("--query", "concept_vs_other_concepts", "--concept", "red", "--run", "smollm2-colours")
        guide("fit", "mean-shift", *red, "--no-diagnose")
        click.echo("AUC: held-out sentences and anchor words; the best of 30 layers is flattered by the choice.\n")
    with step(f"4. add one at block {LAYER}, and let the model write"):
        prompts = ("On the way home we saw", "In the kitchen there were")
        strength = ("--layer", str(LAYER), "--alpha", "1,2,4", "--tokens", "text", "--skip-first")
        guide("steer", "counting", *prompts, *strength, "--max-new-tokens", "16", *guide.own)
    with step("5. measure it: probability of a concept's words, beside 20 random directions of equal length"):
        for concept in SHOWN:
            guide.draw(f"words-{concept}.png", "report", "words", concept, "--layer", str(LAYER), *guide.own)
        click.echo(
            "Concepts and layer were chosen after a look at all of them: these p values are flattered by that.\n"
        )


def picture_side(guide: Guide) -> None:
    """The same vectors on the image tokens of the multimodal model."""
    quick = ("--dtype", guide.quick)
    with step("6. the multimodal model: how far has its language side moved from the text model?"):
        guide("build", "demo-concepts", *guide.own)
        guide.draw(
            "drift.png", "report", "drift", "smollm2-concepts", "demo-concepts", "--layers", "0,5,10,15,20,25,29"
        )
    with step("7. image tokens are rows too: a text vector laid over a picture"):
        guide("build", "demo-pictures", *guide.own)
        for vector in ("red", "spatial_relationship"):
            guide.draw(f"patches-{vector}.png", "report", "patches", "demo-pictures", "3", vector, "--layer", "1,9,17")
    with step("8. which layer and strength? predicted from gradients, run exactly, and again for 20 null directions"):
        found = {task: guide("grid", sweep, "--nulls", "20", *quick) for sweep, task, _ in TASKS}
        click.echo(
            "Chosen on the search split, where null directions had the same choice; the test split was asked once.\n"
        )
    with step("9. the chosen cells on the shifted set: other outlines, palettes and backgrounds"):
        for sweep, task, form in TASKS:
            result = found[task].tasks[0]
            for choice in result.choices:
                cell = choice.cell
                place = ("--layer", str(cell.layer), "--alpha", f"{cell.alpha:g}", "--unit", cell.alpha_unit)
                asked = ("--task", task, "--form", form, "--split", "test", "--n", "32", "--target", cell.target)
                guide("eval", "demo", "scenes-shifted", *asked, "--vector", choice.vector_id, *place, *quick)
            page = guide.root / "pictures" / f"{sweep}.html"
            guide("report", "html", result.sweep_id[:SHORT_ID], "--out", str(page))
            guide.pictures.append(page)
    with step("10. the colour experiment: “red” on the image tokens, up to the breakdown"):
        amount = ("--n", "16", "--alpha", "0.5,1,2,8,64,1024", "--layer", "12")
        guide.draw("colours.png", "report", "colours", "demo", "--vector", "red", *amount, *guide.own)


def quick_dtype() -> str:
    """The dtype to ask questions in: the model's own on a GPU; on a CPU float32, without the near-ties of bfloat16."""
    return "auto" if on_gpu() else "float32"


def own_dtype() -> tuple[str, ...]:
    """Nothing where models run well in the dtype of their weights; on a CPU that emulates bfloat16, `--dtype float32`."""
    import torch

    from steercache.models.slow_dtype import SLOW, times_float32

    return () if on_gpu() or times_float32(torch.bfloat16) < SLOW else ("--dtype", "float32")


def on_gpu() -> bool:
    """Whether models run on an accelerator here."""
    import torch

    return torch.cuda.is_available() or torch.backends.mps.is_available()


@contextmanager
def step(title: str) -> Iterator[None]:
    """A heading, and how long the step took."""
    click.secho(title, bold=True)
    started = time.monotonic()
    yield
    click.echo(f"({time.monotonic() - started:.1f} s)\n")
