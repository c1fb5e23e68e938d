"""The `steercache` command: finds a noun's file when it is called, and turns every error into one clear message."""

import errno
import gc
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from steercache.cli.hints import with_options
from steercache.cli.streams import drop_stdout, open_streams, say
from steercache.cli.watchdog import is_supervised, supervise
from steercache.core.errors import (
    BudgetError,
    ManifestError,
    MissingExtraError,
    QueryError,
    SteercacheError,
    SteercacheWarning,
    UsageError,
)

# name: (module:attribute, one line for --help), in the order of the work. Only the command that is called gets imported.
COMMANDS = {
    "plan": ("steercache.cli.plan:plan", "What a trace or a sweep will cost, before anything is computed."),
    "build": ("steercache.cli.build:build", "Trace a model into the cache; safe to kill, resumes."),
    "activations": (
        "steercache.cli.activations:activations",
        "Activations: in from other engines, out to other tools, parts of runs.",
    ),
    "query": ("steercache.cli.query:query", "Run a named query, SQL or a file over the cache."),
    "fit": ("steercache.cli.fit:fit", "Fit steering vectors for every layer from the cache."),
    "sae": ("steercache.cli.sae:sae", "Sparse autoencoders: train them, encode a run's rows as features."),
    "vectors": ("steercache.cli.vectors:vectors", "List, show, refit and compare vectors."),
    "steer": ("steercache.cli.steer:steer", "Text with and without a vector, side by side."),
    "eval": (
        "steercache.cli.eval:eval_command",
        "A benchmark's table: vectors, prompting and controls, with intervals.",
    ),
    "grid": ("steercache.cli.grid:grid", "A sweep, exactly or raced: every layer, strength and target."),
    "screen": ("steercache.cli.screen:screen", "A sweep predicted from gradients: thousands of vectors, no model."),
    "report": (
        "steercache.cli.report:report",
        "Pictures and pages: words, drift, patches, colours, own vectors, a sweep.",
    ),
    "serve": ("steercache.cli.serve:serve_command", "Look at a cache in the browser: an explorer that only reads."),
    "push": ("steercache.cli.share:push", "Send runs, vectors, sweeps or features to the hub or a folder."),
    "pull": ("steercache.cli.share:pull", "Take what was pushed into the cache; every file is checked."),
    "zoo": ("steercache.cli.zoo:zoo_group", "Models that ship with it: list, build, card."),
    "cache": ("steercache.cli.cache:cache", "Status, verify, rebuild, compact, rm, gc."),
    "manifest": ("steercache.cli.manifest:manifest", "Check manifests; print their JSON schema."),
    "demo": ("steercache.cli.demo:demo", "The whole flow in miniature, on models that ship with it."),
}
EXTRA_OF = {  # what a command may lack where only `steercache` was installed, and the extra that brings it
    **dict.fromkeys(("accelerate", "gguf", "nnsight", "PIL", "tokenizers", "torch", "transformers"), "models"),
    **dict.fromkeys(("altair", "vl_convert"), "plots"),
    **dict.fromkeys(("starlette", "uvicorn"), "serve"),
    "datasets": "data",
    "sae_lens": "sae",
    "sklearn": "fit",
}
OUR_BUG = 1
INTERRUPTED = 130
_OUT_OF_MEMORY = (
    "error: the system gives this process no more memory or threads\ntry: a smaller job, or raise the limits"
)
DEBUG = "STEERCACHE_DEBUG"  # 1 shows the traceback of a bug


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called, so that `--help` stays fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module_name, attribute = COMMANDS[cmd_name][0].split(":")
        command = getattr(import_module(module_name), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a reader of stdout that has gone (`| head`) ends it quietly."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:  # before click sees it: its own answer is exit code 1
            drop_stdout()
            return 0
        return result


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="steercache")
def steercache() -> None:
    """Trace a model once; make every later question a query over its activations.

    \b
    steercache build smollm2-concepts
    steercache fit mean-shift --concept counting
    steercache steer counting "I went to the market and bought" --layer 6 --alpha 2
    """


def main() -> None:
    """Entry point of the installed program."""
    open_streams()
    warnings.showwarning = _in_one_line(warnings.showwarning)
    words = sys.argv[1:]
    code = supervise(words) if is_supervised(words) else run(words)
    gc.collect()  # what errors left in cycles goes now: DuckDB's binding complains of what outlives the interpreter
    sys.exit(code)


def run(words: Sequence[str]) -> int:
    """Carry out one command line; returns the exit code, by class of error as `core.errors` lists them.

    Whatever goes wrong ends in one message on stderr with the next command to try, never in a traceback; only our own bugs
    can show theirs, on request.
    """
    try:
        Path.cwd()
    except OSError:
        return _fail("error: the current folder no longer exists\ntry: cd to another folder", code=UsageError.exit_code)
    if any(
        "\0" in word for word in words
    ):  # no shell passes one on, and every path that holds one is refused otherwise
        return _fail("error: an argument holds a NUL character\ntry: the command without it", code=UsageError.exit_code)
    try:
        # Without its standalone mode, click returns what `ctx.exit` was given instead of exiting.
        code = steercache(list(words), prog_name="steercache", standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt):
        return _fail("interrupted; what was committed stays", code=INTERRUPTED)
    except click.ClickException as error:
        return _fail(f"error: {error.format_message()}\ntry: {_help_of(error)}", code=UsageError.exit_code)
    except SteercacheError as error:
        way_out = "" if error.hint else f"\ntry: {_way_out(error, words)}"
        return _fail(f"error: {with_options(error, steercache, words)}{way_out}", code=error.exit_code)
    except OSError as error:
        return _fail(f"error: {_machine_message(error)}", code=_machine_code(error))
    except MemoryError:
        return _fail(_OUT_OF_MEMORY, code=BudgetError.exit_code)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRA_OF:
            return _fail(_bug_message(error), code=OUR_BUG)
        hint = f"pip install 'steercache[{EXTRA_OF[package]}]'"
        return _fail(
            f"error: this needs {package}, which is not installed\ntry: {hint}", code=MissingExtraError.exit_code
        )
    except Exception as error:
        if (
            isinstance(error, RuntimeError) and str(error) == "can't start new thread"
        ):  # neither memory nor a process left
            return _fail(_OUT_OF_MEMORY, code=BudgetError.exit_code)
        return _fail(_bug_message(error), code=OUR_BUG)
    return code if isinstance(code, int) else 0


def _in_one_line(others: Callable[..., None]) -> Callable[..., None]:
    """Our own warnings without file and line of the program; `others` shows everybody else's."""

    def show(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
        if issubclass(category, SteercacheWarning):
            say(f"note: {message}")
        else:
            others(message, category, *rest, **more)

    return show


def _fail(message: str, *, code: int) -> int:
    say(message)
    return code


def _way_out(error: SteercacheError, words: Sequence[str]) -> str:
    """What to try where a room knew nothing better."""
    if isinstance(error, ManifestError):
        return "mend what is named, then the same command again"
    if isinstance(error, QueryError):
        return 'steercache query "SHOW TABLES"; steercache query "DESCRIBE tokens"'
    called = [word for word in words[:1] if word in COMMANDS]
    return " ".join(["steercache", *called, "--help"])


def _help_of(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    return f"{context.command_path if context else 'steercache'} --help"


def _machine_code(error: OSError) -> int:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE)
    return BudgetError.exit_code if full else UsageError.exit_code


def _machine_message(error: OSError) -> str:
    """What the operating system refused, where no room had more to say about it."""
    place = f"{error.filename}: " if error.filename else ""
    hint = "look at that path and its permissions, or choose another folder with --root"
    return f"{place}{error.strerror or error}\ntry: {hint}{_trace_if_asked()}"


def _bug_message(error: Exception) -> str:
    what = f"error: a bug in steercache: {type(error).__name__}: {error}"
    return f"{what}\ntry: the same command with {DEBUG}=1 in front, and report what it prints{_trace_if_asked()}"


def _trace_if_asked() -> str:
    return f"\n{traceback.format_exc()}" if os.environ.get(DEBUG) == "1" else ""


if __name__ == "__main__":
    main()
