"""`steercache query` in a process of its own, whose limits hold from outside: DuckDB cannot be interrupted within one call.

The parent is the command as it was typed; the child runs the same words, says when its SQL begins, and is killed when it goes
on past its time. Its memory is limited by the kernel.
"""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from steercache.api.limits import limit_own_files, limit_own_memory
from steercache.core.child_process import child_environment, module_command
from steercache.core.errors import QueryError

if TYPE_CHECKING:  # the parent needs neither DuckDB nor Arrow
    from steercache.index.guard import Limits

CHILD = "STEERCACHE_QUERY_PIPE"  # in the child's environment: the number of the pipe on which it says that it begins
GRACE_S = 2.0  # for the child to say itself that its time is up
_FILE_BYTES = 64 * 2**30  # the largest file that a query writes


def begin_query(limits: "Limits") -> None:
    """In a child: limit this process and start its clock. Elsewhere nothing happens: a caller's process is not limited."""
    pipe = os.environ.pop(CHILD, None)
    if pipe is None:
        return
    limit_own_memory(2 * limits.memory_mib * 2**20)
    limit_own_files(_FILE_BYTES)
    os.write(int(pipe), f"{limits.time_s}\n".encode())


def is_supervised(words: Sequence[str]) -> bool:
    """Whether a command line runs SQL and is not the child already."""
    return words[:1] == ["query"] and CHILD not in os.environ


def supervise(words: Sequence[str]) -> int:
    """Run `steercache WORDS` in a child and return its exit code; kill it past its time."""
    begins, says = os.pipe()
    command = module_command("steercache.cli.main", *words)
    child = subprocess.Popen(command, env=child_environment(**{CHILD: str(says)}), pass_fds=[says])
    os.close(says)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal asks the child too, which answers
    signal.signal(signal.SIGTERM, lambda *_: child.kill())
    try:
        return _watched(child, begins)
    finally:
        child.kill()
        child.wait()
        os.close(begins)


def _watched(child: "subprocess.Popen[bytes]", begins: int) -> int:
    said = b""
    while not said.endswith(b"\n") and child.poll() is None:
        if select.select([begins], [], [], 0.2)[0]:
            part = os.read(begins, 64)
            said += part
            if not part:
                break
    time_s = float(said) if said.strip() else None
    try:
        code = child.wait(None if time_s is None else time_s + GRACE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        return _fail(QueryError(f"stopped after {time_s:g} s", hint="ask for less, or --time-limit SECONDS"))
    if code < 0:
        name = signal.Signals(-code).name
        return _fail(QueryError(f"the query's process was ended by {name}", hint="ask for less, or --memory-limit MIB"))
    return code


def _fail(error: QueryError) -> int:
    print(f"error: {error}", file=sys.stderr, flush=True)
    return error.exit_code
