"""`steercache sae review`: the sheet on which a person verifies the features that a fit would pick."""

import shlex
from dataclasses import dataclass
from pathlib import Path

import click

from steercache.cli.completion import complete_concepts
from steercache.cli.fit_sae import SelectionName, candidate_options
from steercache.cli.options import LocalPath, parse_layers, takes
from steercache.cli.output import at_root, next_commands, print_json, print_table, progress_bar


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewOptions:
    """Options of `steercache sae review`."""

    sae: str
    concept: str
    run: str | None
    layers: str | None
    selection: SelectionName
    evidence: Path | None
    allow_foreign: bool
    out: Path
    root: Path
    as_json: bool


@click.command("review")
@candidate_options
@click.option("--concept", required=True, shell_complete=complete_concepts, help="Concept to fit.")
@click.option(
    "--out",
    type=LocalPath(path_type=Path),
    required=True,
    help="Sheet to write, without an ending: OUT.csv and OUT.md.",
)
@takes(ReviewOptions)
def review_command(asked: ReviewOptions) -> None:
    """Write the features that a fit would pick as a sheet, to be judged by a person.

    OUT.csv has a row per feature with an empty column `verdict`; OUT.md shows the same features with texts to read. Write yes,
    no or unclear into the column, then fit with --verdicts OUT.csv and the same options.

    \b
    steercache sae review --sae gemma-scope-2b-pt-res-canonical --layer 12 --concept counting --out sheet
    """
    from steercache.api.cache import open_cache_at

    with progress_bar("encoding the rows", total=None, unit="SAEs", quiet=asked.as_json) as bar:
        table, text = open_cache_at(asked.root).review_sae(
            asked.sae,
            asked.out,
            concept=asked.concept,
            run=asked.run,
            layers=parse_layers(asked.layers),
            selection=asked.selection,
            evidence=asked.evidence,
            allow_foreign=asked.allow_foreign,
            progress=bar.show,
        )
    if asked.as_json:
        print_json({"csv": str(table), "markdown": str(text)})
        return
    print_table(["sheet", "file"], [["to fill in", str(table)], ["to read", str(text)]])
    sae, concept, verdicts = (shlex.quote(str(word)) for word in (asked.sae, asked.concept, table))
    same = {"--selection": asked.selection, "--run": asked.run, "--layers": asked.layers, "--evidence": asked.evidence}
    others = "".join(f" {name} {shlex.quote(str(value))}" for name, value in same.items() if value is not None)
    others += " --allow-foreign" * asked.allow_foreign + at_root(asked.root)
    next_commands(f"steercache fit sae --sae {sae} --concept {concept} --verdicts {verdicts}{others}")
