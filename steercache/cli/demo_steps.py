"""The steps of `steercache demo`: what is typed, what it should take, and what the result means in one line."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

LAYER: Final = 6  # chosen, like the concept, after a look at all of them on these prompts
COLOUR_LAYER: Final = 12
N_NULLS: Final = 500
SAE: Final = "smollm2-135m-l15"
SAE_LAYER: Final = 15
FEATURE: Final = 572  # first in the table that is printed before it
SWEEP: Final = "demo-count"
LOOK: Final = (
    "select concept, count(*) filter (is_anchor) as anchors, count(*) filter (is_control) as controls "
    "from tokens join samples using (run_id, sample_idx) where concept is not null and run_id = (select run_id from runs"
    " where name = 'smollm2-concepts' order by created_at desc limit 1) group by concept order by concept"
)

Rows = Callable[[str], list[tuple[Any, ...]]]
"""The rows of a query over the demo's cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What a step's commands printed on stdout, one text a command, and a way to ask the cache."""

    outputs: tuple[str, ...]
    rows: Rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A step: `commands` as words; `cpu_s` seconds of one core where nothing is cached, on the machine whose matrix products
    take `api.demo.REFERENCE_PRODUCT_S`. `pictures` and `page` are files that its commands write."""

    key: str
    title: str
    commands: tuple[tuple[str, ...], ...]
    cpu_s: float
    meaning: Callable[[Shown], str]
    pictures: tuple[str, ...] = ()
    page: str | None = None


def text_steps(own: tuple[str, ...]) -> tuple[Step, ...]:
    """From a text model's activations to vectors that change what it says; `own` are the options that models run with."""
    red = ("--query", "concept_vs_other_concepts", "--concept", "red", "--run", "smollm2-colours", "--no-diagnose")
    place = ("--layer", str(LAYER), "--alpha", "1,2,4")
    return (
        Step(
            key="trace",
            title="Trace every layer of a language model once, into the cache",
            commands=(("build", "smollm2-concepts", *own), ("build", "smollm2-colours", *own)),
            cpu_s=80.0,
            meaning=_traced,
        ),
        Step(
            key="query",
            title="Activations are rows: ask in SQL",
            commands=(("query", LOOK),),
            cpu_s=1.0,
            meaning=lambda shown: (
                "Each concept has tokens that carry it (anchors) and matched tokens that do not (controls): a vector is the"
                " difference of their mean activations."
            ),
        ),
        Step(
            key="fit",
            title="Fit vectors for all 30 layers, from the cache, without the model",
            commands=(
                ("fit", "mean-shift", "--all-concepts", "--run", "smollm2-concepts"),
                ("fit", "mean-shift", *red),
            ),
            cpu_s=18.0,
            meaning=lambda shown: (
                "AUC on held-out sentences and words: near 1 the direction separates the concept. The best of 30 layers"
                " overstates it, because it was selected."
            ),
        ),
        Step(
            key="write",
            title=f"Add the vector “counting” at block {LAYER}, and let the model write",
            commands=(
                (
                    *("steer", "counting", "On the way home we saw", "In the kitchen there were"),
                    *(*place, "--target", "text", "--skip-first", "--max-new-tokens", "10", *own),
                ),
            ),
            cpu_s=9.0,
            meaning=lambda shown: (
                "Alpha 0 is the unsteered model. Stronger is not always better, and a few texts prove nothing: measure it."
            ),
        ),
        Step(
            key="words",
            title="Measure it: the probability of number words, beside 20 random directions of equal length",
            commands=(("report", "words", "counting", *place, *own),),
            cpu_s=27.0,
            meaning=_words,
            pictures=("words-counting-6.png",),
        ),
    )


def sae_steps(own: tuple[str, ...]) -> tuple[Step, ...]:
    """The concept in terms of the features of the sparse autoencoder that ships, and a vector of one of them."""
    of = ("-p", f"sae={SAE}", "-p", "run=smollm2-concepts")
    fit = ("--sae", SAE, "--concept", "counting", "--run", "smollm2-concepts", "--selection", "firing_rate")
    steer = ("--layer", str(SAE_LAYER), "--alpha", "40,80", "--when", "every", "--skip-first", "--max-new-tokens", "10")
    prompts = ("On the way home we saw", "In the garden there were")
    return (
        Step(
            key="features",
            title="The same concept as features of a sparse autoencoder (SAE), and a vector made of the one that fires most",
            commands=(
                ("sae", "encode", SAE, "--run", "smollm2-concepts"),
                ("sae", "health", SAE, "--run", "smollm2-concepts"),
                ("query", "features_of_concept", "-p", "concept=counting", *of, "-p", "top=5"),
                ("query", "feature_top_tokens", "-p", f"feature={FEATURE}", *of, "-p", "top=8"),
                ("fit", "sae", *fit, "--unverified", "--per-feature", "--no-diagnose", "--name", "numbers"),
                ("steer", f"numbers-l{SAE_LAYER}-f{FEATURE}", *prompts, *steer, *own),
            ),
            cpu_s=22.0,
            meaning=_features,
        ),
    )


def picture_steps(quick: tuple[str, ...]) -> tuple[Step, ...]:
    """The same vectors on the image tokens of the multimodal model; `quick` are the options that it runs with."""
    colours = ("--layer", str(COLOUR_LAYER), "--n", "12", "--alpha", "0.5,1,8")
    return (
        Step(
            key="colours",
            title="“red” of the text model, added to the image tokens of a model that sees drawn scenes",
            commands=(("report", "colours", "demo", "--vector", "red", *colours, *quick),),
            cpu_s=200.0,
            meaning=_colours,
            pictures=("colours-demo-red-12.png",),
        ),
        Step(
            key="screen",
            title=f"Which layer and strength helps to count? Predicted from gradients, beside {N_NULLS} null directions",
            commands=(("screen", SWEEP, "--nulls", str(N_NULLS), *quick),),
            cpu_s=142.0,
            meaning=_screened,
        ),
        Step(
            key="grid",
            title="Run the predicted cells exactly: chosen on the search split, then asked once on the test split",
            commands=(("grid", SWEEP, *quick), ("report", "html", SWEEP)),
            cpu_s=50.0,
            meaning=_benchmark,
            page=f"{SWEEP}.html",
        ),
    )


def _traced(shown: Shown) -> str:
    ((n_tokens, n_runs),) = shown.rows("select count(*), count(distinct run_id) from tokens")
    return (
        f"{n_tokens:,} tokens of {n_runs} data sets are on disk with the outputs of all 30 layers. What follows reads them and"
        " does not run the model over these sentences again."
    )


def _features(shown: Shown) -> str:
    top = [line.split("│") for line in shown.outputs[2].splitlines() if re.match(r"\s*\d+ │", line)]
    rates = (
        f" It fires on {float(top[0][1]):.0%} of the number words and {float(top[0][2]):.0%} of the others."
        if top
        else ""
    )
    return (
        f"Nobody told the SAE about numbers: feature {FEATURE} was learnt from text alone.{rates} That a feature detects a"
        " concept does not mean that adding it writes the concept: compare with alpha 0."
    )


def _words(shown: Shown) -> str:
    found = _line_with(shown.outputs, " at alpha ", "no strength tried")
    effect = (
        "The effect comes from the direction, not from its norm"
        if "beyond all" in found
        else "Random directions do as well here: no effect to claim"
    )
    return f"{effect}: {found}. Concept and layer were selected after comparing all of them, so p is too small."


def _colours(shown: Shown) -> str:
    found = _line_with(shown.outputs, " at alpha ", "no strength tried")
    effect = (
        "A direction fitted on words alone changes what the model sees in a picture"
        if "beyond all" in found
        else "No effect beyond random directions"
    )
    return f"{effect}: {found}"


def _screened(shown: Shown) -> str:
    return (
        "One backward pass per answer option predicts every cell and every null direction: 20 exact grids are not needed. A p"
        " above .05 means that directions without the concept are predicted to do as well at their best."
    )


def _benchmark(shown: Shown) -> str:
    right = shown.rows(
        "select t.split, max(t.n), avg(t.n_correct / t.n) from trials t join sweeps w using (sweep_id) join cells c"
        f" using (cell_id) where w.name like '{SWEEP}%' and c.vector_id is null and t.n > 0 group by t.split order by 1"
    )
    base = "; ".join(f"{share:.0%} of {n} questions right unsteered ({split})" for split, n, share in right)
    verdicts = [line.strip() for line in shown.outputs[-1].splitlines() if ": " in line and "p = " in line]
    headroom = "there is room to improve, and the table says plainly whether a vector does"
    return f"{base}: {headroom}. {' '.join(verdicts)}"


def _line_with(outputs: Sequence[str], *marks: str) -> str:
    """The last printed line with one of these, without the space that a terminal's lines begin with."""
    lines = [re.sub(r"\s+", " ", line).strip() for text in outputs for line in text.splitlines()]
    found = [line for line in lines if any(mark in line for mark in marks)]
    return found[-1] if found else "see the table"
