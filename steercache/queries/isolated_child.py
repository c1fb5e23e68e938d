"""The process of one statement of untrusted origin; `queries.isolated` starts it and reads what it sends."""

import json
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa

from steercache.cache.handle import CacheFolder
from steercache.core.errors import QueryError, SteercacheError, SteercacheWarning
from steercache.index.ceiling import limit_own_files, limit_own_memory
from steercache.index.guard import Limits, stream_query, too_large
from steercache.queries.library import parse_query, yaml_header
from steercache.queries.messages import MAX_CHARS, decode_bindings, encode, encode_bindings, encode_error
from steercache.queries.running import running

Say = Callable[[Mapping[str, Any]], None]


def main(results: int, events: int) -> None:
    """Answer the request on stdin: Arrow into the descriptor `results`, what happens into `events`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is for the parent, which kills this process

    def say(message: Mapping[str, Any]) -> None:
        os.write(events, encode(message))

    request = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(BrokenPipeError):  # nobody reads any more
        say(_answered(request, results, say))


def _end_with_parent() -> None:
    """The parent holds the other end of stdin: it is closed when the parent dies, however it does."""
    os.read(0, 1)
    os._exit(1)


def _answered(request: Mapping[str, Any], results: int, say: Say) -> Mapping[str, Any]:
    """Send the answer; returns the last event."""
    limits = Limits(**request["limits"])
    try:
        _send(request, limits, results, say)
    except SteercacheError as error:
        return {"event": "failed", "error": encode_error(error)}
    except MemoryError:
        too_much = QueryError(f"it needs more than {limits.memory_mib} MiB of memory", hint="allow more memory")
        return {"event": "failed", "error": encode_error(too_much)}
    except BrokenPipeError:
        raise
    except Exception:
        return {"event": "crashed", "traceback": traceback.format_exc()[-MAX_CHARS:]}
    return {"event": "done"}


def _send(request: Mapping[str, Any], limits: Limits, results: int, say: Say) -> None:
    text, given = request["text"], decode_bindings(request["given"])
    query = parse_query(text, place="the query's header") if yaml_header(text) is not None else None
    cache = CacheFolder(Path(request["root"]))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", SteercacheWarning)

        def begin() -> None:
            limit_own_memory(2 * limits.memory_mib * 2**20)
            limit_own_files(limits.spill_mib * 2**20)
            say({"event": "begun"})

        with running(cache, query, text, given, choose_run=request["choose_run"], on_open=begin) as found:
            said = [str(w.message) for w in caught if issubclass(w.category, SteercacheWarning)]
            with stream_query(found.con, text, found.bindings, limits=limits, failures=found.failures) as reader:
                say({"event": "ready", "bindings": encode_bindings(found.bindings), "warnings": said})
                _write(reader, limits, results)


def _write(reader: pa.RecordBatchReader, limits: Limits, results: int) -> None:
    """Send the batches; one that is larger than the whole result may be is refused here, where it lies in memory already."""
    with os.fdopen(results, "wb") as file, pa.ipc.new_stream(file, reader.schema) as stream:
        for batch in reader:
            if batch.nbytes > limits.memory_mib * 2**20:
                raise too_large(limits)
            stream.write_batch(batch)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
    os._exit(0)  # without the teardown of the libraries
