"""`steercache steer`: text with and without a vector, side by side."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import click

from steercache.cli.completion import complete_models, complete_vectors
from steercache.cli.options import (
    RenamedOption,
    allow_foreign_option,
    device_options,
    fitted_unit_option,
    json_option,
    one_target,
    operation_option,
    parse_alphas,
    root_option,
    takes,
)
from steercache.cli.output import next_commands, print_json, print_table, progress_bar
from steercache.core.trials import AlphaUnit


@dataclass(frozen=True, slots=True, kw_only=True)
class SteerOptions:
    """What is steered, and how, as typed."""

    vector: str
    prompts: tuple[str, ...]
    layer: int
    alphas: str
    alpha_unit: AlphaUnit
    operation: str
    target: str
    when: Literal["prefill", "generated", "every"]
    n_generated: int | None
    skip_first: bool
    max_new_tokens: int
    chat: bool
    model: str | None
    allow_foreign: bool
    root: Path
    device: str
    dtype: str
    as_json: bool


@click.command()
@click.argument("vector", shell_complete=complete_vectors)
@click.argument("prompts", nargs=-1, required=True)
@click.option("--layer", type=int, required=True, help="Decoder block (from 0) to whose output the vector is added.")
@click.option("--alpha", "alphas", default="1", show_default=True, help="Strengths, such as 1,2,4.")
@fitted_unit_option
@operation_option
@click.option(
    "--target",
    cls=RenamedOption,
    former=["--tokens"],
    callback=one_target,
    metavar="[all|text|last|image|both|sql: ...]",
    default="all",
    show_default=True,
    help="Tokens that are steered; padding never is. text: without special tokens and the last token of the prompt; "
    "or SQL over the prompt's tokens: \"sql: word = 'not'\".",
)
@click.option(
    "--when",
    type=click.Choice(["prefill", "generated", "every"]),
    default="prefill",
    show_default=True,
    help="prefill: steer the tokens of the prompt; generated: those that are generated; every: both.",
)
@click.option(
    "--n-generated",
    type=click.IntRange(1),
    metavar="N",
    help="Of the generated tokens, steer the first N.  [default: all, where --when says so]",
)
@click.option("--skip-first", is_flag=True, help="Do not steer the first token (the attention sink).")
@click.option(
    "--max-new-tokens",
    type=click.IntRange(1, 4096),
    default=20,
    show_default=True,
    help="Largest number of generated tokens.",
)
@click.option("--chat", is_flag=True, help="Put each prompt into the model's chat template.")
@click.option(
    "--model",
    shell_complete=complete_models,
    help="Model manifest, by name or file; by default that of the vector's run.",
)
@allow_foreign_option
@root_option
@device_options
@json_option
@takes(SteerOptions)
def steer(asked: SteerOptions) -> None:
    """Continue PROMPTS greedily with and without VECTOR (a name, an id or a prefix).

    The texts are stored as answers of a sweep, and read from the cache when the command is repeated.

    \b
    steercache steer counting "On the way home we saw" --layer 6 --alpha 1,2,4
    """
    from steercache.api.cache import open_cache_at
    from steercache.api.generating import text_plan, write_texts

    cache = open_cache_at(asked.root)
    vector = cache.vector(asked.vector)
    plan = text_plan(
        asked.prompts,
        layer=asked.layer,
        alphas=parse_alphas(asked.alphas),
        alpha_unit=asked.alpha_unit,
        operation=asked.operation,
        target=asked.target,
        when=asked.when,
        skip_first=asked.skip_first,
        n_generated=asked.n_generated,
        max_new_tokens=asked.max_new_tokens,
        chat=asked.chat,
    )
    with progress_bar("reading the model", total=None, unit="", quiet=asked.as_json):
        written = write_texts(
            cache.folder,
            vector,
            plan,
            model=asked.model,
            device=asked.device,
            dtype=asked.dtype,
            allow_foreign=asked.allow_foreign,
        )
    texts = written.texts
    if asked.as_json:
        print_json(texts)
        return
    said = asked.target if asked.n_generated is None else f"{asked.target} (first {asked.n_generated} generated)"
    for text in texts:
        columns = ["alpha", f"{vector.name}, layer {asked.layer}, {said} tokens, {asked.when}"]
        print_table(
            columns,
            [[f"{c.alpha:g}", c.text if c.error is None else f"(failed: {c.error})"] for c in text.continuations],
            title=text.prompt,
        )
        click.echo()
    if written.from_cache:
        click.echo("0 computed: all these texts are in the cache")
    next_commands(f"steercache vectors show {shlex.quote(vector.name)}")
