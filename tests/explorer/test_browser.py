"""The explorer in a real browser: slider, arrow keys, forms; no console errors, no other host, nothing of an attacker."""

import base64
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.explorer.small_site import Small
from tests.queries.small_features import SAE_ID
from tests.report.browser import Tab, browser_tab
from tests.report.contrast import contrast

pytestmark = pytest.mark.slow
REPOSITORY = Path(__file__).parents[2]
KEYS = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Home": 36, "End": 35}
SERVE = "import sys, steercache; steercache.serve(sys.argv[1], port=0, open_browser=False)"


ATTACK = """(async () => {
  const tried = async (ask) => { try { return await ask() } catch (error) { return error.name } };
  const body = new URLSearchParams('sql=SELECT+1');
  const loaded = (kind, address) => new Promise((done) => {
    const made = document.createElement(kind);
    made.src = address;
    made.onerror = () => done('refused');
    made.onload = () => done(kind === 'script' || made.contentDocument ? 'loaded' : 'closed');
    document.documentElement.append(made);
  });
  return [
    await tried(async () => (await fetch('AT/')).status),
    await tried(async () => (await fetch('AT/sql', {method: 'POST', mode: 'no-cors', body})).type),
    await loaded('script', 'AT/static/app.js'),
    await loaded('iframe', 'AT/'),
  ];
})()"""


@contextmanager
def served(root: Path) -> Iterator[str]:
    """The address of a real server in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(root)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        found = re.search(r"http://\S+", process.stdout.readline())
        assert found is not None
        yield found[0].rstrip("/")
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()


@pytest.fixture(scope="module")
def address(small: Small) -> Iterator[str]:
    with served(small.root) as found:
        yield found


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    rules = "EXCLUDE 127.0.0.1, MAP evil.example 127.0.0.1"
    with browser_tab(tmp_path_factory.mktemp("browser"), resolver=rules) as tab:
        yield tab


@pytest.fixture
def tab(browser: Tab) -> Iterator[Tab]:
    browser.look(1300)
    yield browser
    browser.ask("1")  # events that are under way
    bad = [e for e in browser.events if e.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown")]
    assert bad == []
    assert not [e for e in browser.events if e.get("method") == "Runtime.consoleAPICalled"]


def hosts(tab: Tab) -> set[str]:
    urls = [e["params"]["request"]["url"] for e in tab.events if e.get("method") == "Network.requestWillBeSent"]
    return {url.split("/")[2] for url in urls if not url.startswith("data:")}


def wait(tab: Tab, script: str) -> Any:
    """The value of an expression once it is true. A page that is just being left has no answer: it is asked again."""
    until, last = time.monotonic() + 15, "it was never true"
    while time.monotonic() < until:
        try:
            if found := tab.ask(f"(found => found instanceof Node || found)({script})"):
                return found
        except AssertionError as error:
            last = str(error)
        time.sleep(0.02)
    raise AssertionError(f"not true within 15 s: {script}; {last}")


def picture(tab: Tab, selector: str) -> bytes:
    box = tab.ask(
        f"(b => [b.x + scrollX, b.y + scrollY, b.width, b.height])("
        f"document.querySelector({selector!r}).getBoundingClientRect())"
    )
    clip = dict(zip(("x", "y", "width", "height"), box, strict=True), scale=1)
    return base64.b64decode(tab.call("Page.captureScreenshot", format="png", clip=clip)["data"])


def key(tab: Tab, name: str) -> None:
    for kind in ("rawKeyDown", "keyUp"):
        tab.call("Input.dispatchKeyEvent", type=kind, key=name, code=name, windowsVirtualKeyCode=KEYS[name])


LEVELS = (
    "[...document.querySelectorAll('#text .tok[data-i], .patch')].map(e => e.className.baseVal ?? e.className).join()"
)
COLOURS = "[...document.querySelectorAll('#text .tok[data-i]')].map(e => getComputedStyle(e).backgroundColor)"


def test_the_slider_changes_colours_numbers_address_and_picture(tab: Tab, small: Small, address: str) -> None:
    tab.open(f"{address}/runs/{small.text}/samples/1?of=vector:{small.east}&layer=0")
    wait(tab, "document.body.dataset.layer === '0'")
    first, at_zero = picture(tab, "#text"), tab.ask(COLOURS)
    tab.ask("document.getElementById('layer').focus()")
    key(tab, "ArrowRight")
    wait(tab, "document.body.dataset.layer === '1' && !document.querySelector('.waits')")
    assert tab.ask("document.getElementById('layer-shown').value") == "1"
    assert tab.ask("document.getElementById('layer').getAttribute('aria-valuetext')") == "layer 1"
    assert "layer=1" in tab.ask("location.search")
    assert "layer=1" in tab.ask("document.querySelector('[rel=next]').href")
    assert tab.ask("document.querySelector('#all tr[data-n=\"2\"]').cells[4].textContent") == "11.4"  # |(8, 1, 8, 1)|
    tab.ask("(m => { m.value = 'norm'; m.dispatchEvent(new Event('change')) })(document.getElementById('measure'))")
    wait(tab, "document.querySelector('.legend.rises')")
    wait(tab, f"!({COLOURS}).every((colour, i) => colour === {at_zero!r}[i])")  # they glide
    assert picture(tab, "#text") != first
    assert hosts(tab) == {address.split("/")[2]}


def test_pictures_of_patches_differ_between_vectors(tab: Tab, small: Small, address: str) -> None:
    tab.open(f"{address}/runs/{small.pictures}/samples/0?of=vector:{small.east}&layer=1")
    shown = picture(tab, "#patches")
    tab.ask("(o => { o.value = 'norm'; o.dispatchEvent(new Event('change')) })(document.getElementById('of'))")
    wait(tab, "location.search.startsWith('?of=norm')")
    assert picture(tab, "#patches") != shown
    tab.ask("document.querySelector('.patch').focus()")
    key(tab, "ArrowRight")
    assert tab.ask("document.activeElement.dataset.i") == "1"
    assert "patch 0, 1" in tab.ask("document.getElementById('token').innerText")


def test_tokens_are_reached_by_keyboard_and_pointer(tab: Tab, small: Small, address: str) -> None:
    tab.open(f"{address}/runs/{small.text}/samples/0?of=vector:{small.east}&layer=1")
    assert tab.ask("document.querySelectorAll('#text [tabindex=\"0\"]').length") == 1
    tab.ask("document.querySelector('#text [tabindex=\"0\"]').focus()")
    for name in ("ArrowRight", "ArrowRight", "ArrowRight"):
        key(tab, name)
    assert tab.ask("document.activeElement.id") == "token-3"
    said = tab.ask("document.getElementById('token').innerText")
    assert "text, anchor" in said
    assert re.search(r"projection\s+3\b", said)
    assert tab.ask("document.activeElement.getAttribute('aria-label')") == "on: 3"
    wait(tab, "document.querySelector('#over svg') && document.querySelector('#fires a')")
    assert tab.ask("[...document.querySelectorAll('#fires li')].map(e => e.textContent)") == [
        "feature 02",
        "feature 10.5",
    ]
    key(tab, "End")
    assert tab.ask("document.activeElement.id") == "token-5"
    x, y = tab.ask("(b => [b.x + 3, b.y + 3])(document.getElementById('token-1').getBoundingClientRect())")
    tab.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    wait(tab, "document.getElementById('token').innerText.startsWith('cat')")
    tab.ask("document.querySelector('#fires a').click()")
    wait(tab, f"location.pathname.includes('/saes/{SAE_ID}/') && document.readyState === 'complete'")
    assert "Tokens on which it fires most" in tab.ask("document.querySelector('main').innerText")


def test_filters_and_sql_work_by_clicks(tab: Tab, small: Small, address: str) -> None:
    tab.open(f"{address}/runs/{small.text}")
    tab.ask(
        "(s => { s.value = 'mood'; s.dispatchEvent(new Event('change', {bubbles: true})) })"
        "(document.querySelector('[name=concept]'))"
    )
    wait(tab, "location.search.includes('concept=mood') && document.readyState === 'complete'")
    assert tab.ask("document.querySelectorAll('.samples tbody tr').length") == 2
    tab.open(f"{address}/sql")
    tab.ask("document.getElementById('statement').value = 'SELECT 41 + 1 AS answer'")
    tab.ask("document.querySelector('#sql button').click()")
    wait(tab, "document.querySelector('.result td') && document.readyState === 'complete'")
    assert tab.ask("document.querySelector('.result td').textContent") == "42"  # the form has its Origin


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1300])
def test_pages_fit_the_window_and_can_be_read(tab: Tab, small: Small, address: str, width: int, dark: bool) -> None:
    tab.look(width, dark=dark)
    runs = [f"/runs/{small.text}", f"/runs/{small.text}/samples/0", f"/runs/{small.hostile}/samples/0"]
    for path in ("/", *runs, f"/vectors/{small.east}", "/sql"):
        tab.open(address + path)
        assert tab.ask("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), path
        unnamed = tab.ask(
            """[...document.querySelectorAll('input:not([type=hidden]), select, textarea, button, a')].filter(e =>
            e.offsetParent && !(e.labels?.length || e.textContent.trim() || e.getAttribute('aria-label')))
            .map(e => e.outerHTML)"""
        )
        assert unnamed == [], path
    tab.open(f"{address}/runs/{small.text}/samples/0?of=vector:{small.east}&layer=1")
    opaque = (
        "e => (c => { const x = document.createElement('canvas').getContext('2d'); x.fillStyle = c; x.fillRect(0, 0, 1, 1);"
        " return 'rgb(' + [...x.getImageData(0, 0, 1, 1).data].slice(0, 3).join(', ') + ')' })"
    )
    pairs = tab.ask(
        f"[...document.querySelectorAll('#text .tok[data-i]')].map({opaque}(getComputedStyle(e).backgroundColor)).map((c, i) =>"
        " [c, getComputedStyle(document.querySelectorAll('#text .tok[data-i]')[i]).color])"
    )
    assert len({ground for ground, _ in pairs}) > 2
    for ground, ink in pairs:
        assert contrast(ground, ink) >= 4.5, (ground, ink)


def test_nothing_of_an_attackers_data_runs(tab: Tab, small: Small, address: str) -> None:
    for path in ("/", f"/runs/{small.hostile}", f"/runs/{small.hostile}/samples/0", "/vectors", "/results"):
        tab.open(address + path)
        assert tab.ask("typeof window.hurt") == "undefined", path
        assert hosts(tab) <= {address.split("/")[2]}


def test_another_page_gets_nothing_by_any_way(browser: Tab, small: Small, address: str) -> None:
    """A page of another origin, and the explorer's own address under a name that was rebound to loopback."""

    class Evil(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>evil</title>")

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Evil)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    port = int(address.split(":")[2].split("/")[0])
    try:
        browser.open(f"http://127.0.0.1:{server.server_port}/")
        script = ATTACK.replace("AT/", f"{address}/")
        found = browser.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        said = found["result"]["value"]
        assert said[0] == "TypeError"
        assert said[1] in ("TypeError", "opaque")
        assert said[2:] == ["refused", "closed"]
        key_of = address.rsplit("/", 1)[1]
        browser.open(f"http://evil.example:{port}/{key_of}/")
        assert browser.ask("document.body.innerText").strip() == "this server answers only to 127.0.0.1 and localhost"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        browser.open("about:blank")
