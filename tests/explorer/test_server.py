"""Starting and ending the server: the port, Ctrl-C, a build beside it, and what is missing."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from steercache.core.errors import BusyError, UsageError
from steercache.explorer.server import _listen, _open
from tests.explorer.small_site import Small

REPOSITORY = Path(__file__).parents[2]


def start(root: Path, *words: str) -> tuple[subprocess.Popen[str], str]:
    """`steercache serve` in a process of its own, and its address."""
    command = [sys.executable, "-m", "steercache.cli.main", "serve", "--root", str(root), "--no-browser", *words]
    process = subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.search(r"http://127\.0\.0\.1:\d+/[\w-]{20,}/", line)
    assert found, line + (process.stderr.read() if process.stderr else "")
    return process, found[0]


def end(process: subprocess.Popen[str], sent: int = signal.SIGINT) -> tuple[int, str, float]:
    """Exit code, stderr, and how long it took."""
    begun = time.monotonic()
    process.send_signal(sent)
    _, err = process.communicate(timeout=30)
    return process.returncode, err, time.monotonic() - begun


def test_a_port_in_use_is_named() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(BusyError, match=f"port {port} of 127.0.0.1 is in use"):
            _listen(port)
    with pytest.raises(UsageError, match="no port"):
        _listen(70_000)


def test_it_listens_on_loopback_alone() -> None:
    with _listen(0) as listening:
        assert listening.getsockname()[0] == "127.0.0.1"


@pytest.mark.slow
def test_ctrl_c_ends_it_quickly_also_while_a_statement_runs(small: Small) -> None:
    process, address = start(small.root, "--port", "0", "--time-limit", "60")
    assert "Runs" in urllib.request.urlopen(address, timeout=20).read().decode()
    origin = address.rsplit("/", 2)[0]
    body = b"sql=SELECT+count(*)+FROM+range(10000000000)+a,+range(1000000)+b"
    asked = urllib.request.Request(f"{address}sql", data=body, headers={"Origin": origin})
    asking = subprocess.Popen(
        [sys.executable, "-c", "import sys, urllib.request as u; u.urlopen(u.Request(sys.argv[1], data=sys.argv[2].encode(),"
         " headers={'Origin': sys.argv[3]}))", asked.full_url, body.decode(), origin],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    time.sleep(4)
    code, err, took = end(process)
    asking.wait(30)
    assert code in (0, 130), err
    assert "Traceback" not in err
    assert took < 15
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert not any("isolated_child" in line and str(os.getsid(0)) in line for line in listed.splitlines())


@pytest.mark.slow
def test_in_a_thread_with_an_event_loop_it_serves_until_interrupted(small: Small) -> None:
    code = (
        "import asyncio, sys, steercache\n"
        "async def cell(): steercache.serve(sys.argv[1], port=0, open_browser=False)\n"
        "asyncio.new_event_loop().run_until_complete(cell())\nprint('ended')"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(small.root)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    found = re.search(r"http://\S+", process.stdout.readline())
    assert found is not None
    assert urllib.request.urlopen(found[0], timeout=20).status == 200
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out.strip().splitlines()[-1]) == (0, "ended"), err


def test_the_browser_is_told_of_a_private_file_and_not_of_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    _open("http://127.0.0.1:1/secret-key/", tmp_path)
    (told,) = opened
    assert "secret-key" not in told
    page = Path(urllib.request.url2pathname(told.removeprefix("file://")))
    assert 'content="0; url=http://127.0.0.1:1/secret-key/"' in page.read_text()


@pytest.mark.slow
def test_pages_are_there_while_another_process_holds_the_index_and_a_busy_port_is_an_error(small: Small) -> None:
    hold = (
        "import sys, time; from pathlib import Path; from steercache.index.database import Index\n"
        "with Index(Path(sys.argv[1])).write():\n    print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, str(small.root / "index.duckdb")],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    )
    process, address = start(small.root, "--port", "0")
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        for path in ("", f"runs/{small.text}/samples/0/values?of=norm"):
            assert urllib.request.urlopen(address + path, timeout=40).status == 200
        port = address.split(":")[2].split("/")[0]
        command = [sys.executable, "-m", "steercache.cli.main", "serve", "--root", str(small.root), "--port", port]
        second = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)
        assert second.returncode == BusyError.exit_code
        assert (
            second.stderr
            == f"error: port {port} of 127.0.0.1 is in use\ntry: choose another port; 0 takes a free one (--port N)\n"
        )
    finally:
        holder.kill()
        holder.communicate()
        _, err, _ = end(process, signal.SIGTERM)
    assert "Traceback" not in err


def test_without_the_extra_the_pip_command_is_named(small: Small) -> None:
    code = (
        "import sys; sys.modules['starlette'] = None\n"
        "from steercache.cli.main import run\n"
        "sys.exit(run(['serve', '--root', sys.argv[1], '--no-browser', '--port', '0']))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(small.root)], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 6, done.stderr
    assert "pip install 'steercache[serve]'" in done.stderr
    assert json.dumps(done.stdout) == '""'
