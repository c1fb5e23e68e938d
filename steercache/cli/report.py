"""`steercache report`: the paper's questions as tables and pictures, and one page about a sweep."""

from importlib import import_module

import click

# name: (module:attribute, one line for --help). Only the one that is called is imported: most need no model.
REPORTS = {
    "html": ("steercache.cli.report_html:html_command", "One self-contained page about an evaluation or a grid."),
    "words": ("steercache.cli.report_words:words_command", "A concept's words as next tokens, against alpha."),
    "drift": ("steercache.cli.report_drift:drift_command", "How far a backbone moved inside its MLLM, layer by layer."),
    "patches": ("steercache.cli.report_patches:patches_command", "Image patches along a vector, over the picture."),
    "colours": ("steercache.cli.report_colours:colours_command", "The colour experiment: colour words against alpha."),
    "own": ("steercache.cli.report_own:own_command", "An MLLM's own vector against its backbone's, both evaluated."),
}


class LazyReports(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(REPORTS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in REPORTS:
            return None
        module_name, attribute = REPORTS[cmd_name][0].split(":")
        command = getattr(import_module(module_name), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in REPORTS.items()])


@click.group(cls=LazyReports)
def report() -> None:
    """Pictures and pages from what the cache holds.

    \b
    steercache report html eval-tiny-scenes --out report.html
    steercache report drift smollm2-concepts smolvlm-256m-concepts
    """
