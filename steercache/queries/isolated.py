"""SQL that came with a file, run in a process of its own: its time, memory and output are limited from outside.

DuckDB's own limits do not hold for every statement: it hears no interrupt within one call of a function, and not all memory is
counted. The child opens the index, limits itself by the kernel, and sends its result as an Arrow stream; this process kills it
when it goes on past its time.
"""

import json
import os
import signal
import subprocess
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from steercache.core.child_process import child_environment, module_command
from steercache.core.errors import QueryError, SteercacheError, SteercacheWarning
from steercache.index.guard import Limits, check_values
from steercache.queries.messages import decode_bindings, decode_error, encode, encode_bindings

CHILD_MODULE = "steercache.queries.isolated_child"
GRACE_S = 2.0  # for the child to say itself that its time is up
_TAIL_BYTES = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class IsolatedAnswer:
    """The result of a statement as it comes, and the values that its parameters had."""

    reader: pa.RecordBatchReader
    bindings: dict[str, Any]


@contextmanager
def isolated(
    root: Path, text: str, given: Mapping[str, Any], *, limits: Limits, choose_run: bool = False
) -> Iterator[IsolatedAnswer]:
    """Run a statement, with or without a header, on the cache at `root` in a child process, for the length of the block.

    Raises:
        QueryError: as `index.guard.stream_query`; or the child had to be killed, or died.
        NotFoundError, DamagedError, ...: what opening the cache and binding values raise.
    """
    check_values(given)
    request = {
        "root": os.path.abspath(root),
        "text": text,
        "given": encode_bindings(given),
        "limits": asdict(limits),
        "choose_run": choose_run,
    }
    child = _Child(limits)
    try:
        yield child.ask(request)
    finally:
        child.end()


class _Child:
    """The process of one statement."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.timer: threading.Timer | None = None
        self.out_of_time = False
        results, sends_results = os.pipe()
        events, sends_events = os.pipe()
        self.results, self.events = os.fdopen(results, "rb"), os.fdopen(events, "rb")
        self.noise = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `end`
        try:
            self.process = subprocess.Popen(
                module_command(CHILD_MODULE, str(sends_results), str(sends_events)),
                stdin=subprocess.PIPE,
                stdout=self.noise,
                stderr=self.noise,
                pass_fds=[sends_results, sends_events],
                env=child_environment(),
            )
        except BaseException:
            self._close()
            raise
        finally:
            os.close(sends_results)
            os.close(sends_events)

    def ask(self, request: Mapping[str, Any]) -> IsolatedAnswer:
        """Send the statement; returns when its first rows are there to be read."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it died: there is no event, and its exit says why
            self.process.stdin.write(encode(request))
            self.process.stdin.flush()
        self._expect("begun")
        self._start_clock()
        ready = self._expect("ready")
        for said in ready["warnings"]:
            warnings.warn(str(said), SteercacheWarning, stacklevel=4)
        try:
            source = pa.ipc.open_stream(self.results)
        except (pa.ArrowException, OSError) as error:
            raise self._failure(None) from error
        reader = pa.RecordBatchReader.from_batches(source.schema, self._batches(source))
        return IsolatedAnswer(reader=reader, bindings=decode_bindings(ready["bindings"]))

    def end(self) -> None:
        """Nothing of the child stays."""
        if self.timer is not None:
            self.timer.cancel()
        self.process.kill()
        self.process.wait()
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        self._close()

    def _close(self) -> None:
        for file in (self.results, self.events, self.noise):
            file.close()

    def _batches(self, source: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        while True:
            try:
                batch = source.read_next_batch()
            except StopIteration:
                self._expect("done")
                return
            except (pa.ArrowException, OSError) as error:  # the stream ends in the middle of a message
                raise self._failure(self._next_event()) from error
            yield batch

    def _start_clock(self) -> None:
        self.timer = threading.Timer(self.limits.time_s + GRACE_S, self._kill)
        self.timer.daemon = True
        self.timer.start()

    def _kill(self) -> None:
        self.out_of_time = True
        self.process.kill()

    def _expect(self, kind: str) -> Mapping[str, Any]:
        """The next event, which is of that kind. Raises what the child says went wrong."""
        event = self._next_event()
        if event is None or event["event"] != kind:
            raise self._failure(event)
        return event

    def _next_event(self) -> Mapping[str, Any] | None:
        """What the child says next; None when it says nothing any more."""
        line = self.events.readline()
        event: Mapping[str, Any] | None = json.loads(line) if line.endswith(b"\n") else None
        return event

    def _failure(self, event: Mapping[str, Any] | None) -> Exception:
        """Why there is no answer: the child's own words, or how it ended."""
        if event is not None and event["event"] == "failed":
            return decode_error(event["error"])
        if event is not None and event["event"] == "crashed":
            return RuntimeError(f"in the query's process:\n{event['traceback']}")
        code = self.process.wait()
        return self._died(code)

    def _died(self, code: int) -> SteercacheError:
        if self.out_of_time:
            return QueryError(f"stopped after {self.limits.time_s:g} s", hint="ask for less, or allow more time")
        if code < 0:
            name = signal.Signals(-code).name
            return QueryError(f"the query's process was ended by {name}", hint="ask for less, or allow more memory")
        self.noise.seek(max(0, self.noise.seek(0, os.SEEK_END) - _TAIL_BYTES))
        said = self.noise.read().decode(errors="replace").strip()
        return QueryError(f"the query's process ended with exit code {code}: {said or 'it said nothing'}")
