"""Requests that are not the reader's own get nothing: other names of the host, other pages, no key, paths, writes."""

from pathlib import Path

import pytest

from steercache.explorer.guard import MAX_BODY
from tests.explorer.small_site import HOST, TOKEN, Site, Small

PAGES = ("/", "/vectors", "/saes", "/results", "/sql")


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", "localhost.evil.example:8765", "127.0.0.1@evil",
     "0.0.0.0:8765", "192.168.0.7:8765", "[::]:8765", "127.0.0.1:8765:1", "", "127.0.0.2"],
)  # fmt: skip
def test_a_name_that_was_rebound_to_loopback_gets_nothing(site: Site, host: str) -> None:
    answer = site.get(f"/{TOKEN}/", headers={"host": host})
    assert answer.status_code == 403
    assert "Runs" not in answer.text


@pytest.mark.parametrize("host", ["127.0.0.1:8765", "localhost:8765", "LOCALHOST:9000", "[::1]:8765", "127.0.0.1"])
def test_loopback_by_any_of_its_names_and_ports_is_answered(site: Site, host: str) -> None:
    assert (
        site.get(f"/{TOKEN}/static/icon.svg", headers={"host": host}).status_code == 200
    )  # ports differ behind ssh -L


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://localhost:3000", "https://127.0.0.1:8765", "http://127.0.0.1:8766", "http://localhost:8765"]
)  # fmt: skip
def test_another_pages_origin_gets_nothing(site: Site, origin: str) -> None:
    assert site.get(f"/{TOKEN}/", headers={"origin": origin}).status_code == 403
    assert site.post(f"/{TOKEN}/sql", data={"sql": "SELECT 1"}, headers={"origin": origin}).status_code == 403


def test_a_form_without_an_origin_is_refused(site: Site) -> None:
    assert site.post(f"/{TOKEN}/sql", data={"sql": "SELECT 1"}).status_code == 403


@pytest.mark.parametrize("where", ["cross-site", "same-site"])
def test_what_other_pages_embed_is_refused_and_a_followed_link_is_not(site: Site, where: str) -> None:
    for mode, dest in (("no-cors", "image"), ("no-cors", "script"), ("cors", "empty"), ("navigate", "iframe")):
        headers = {"sec-fetch-site": where, "sec-fetch-mode": mode, "sec-fetch-dest": dest}
        assert site.get(f"/{TOKEN}/static/app.js", headers=headers).status_code == 403, (mode, dest)
    link = {"sec-fetch-site": where, "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert site.get(f"/{TOKEN}/sql", headers=link).status_code == 200
    assert (
        site.post(f"/{TOKEN}/sql", data={"sql": "SELECT 1"}, headers={**link, "origin": f"http://{HOST}"}).status_code
        == 403
    )


@pytest.mark.parametrize("key", ["", "wrong", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "\u00e9\u00e9", "..", "%00"])
def test_without_the_key_there_is_nothing(site: Site, key: str) -> None:
    for path in (*PAGES, "/static/app.js", "/static/icon.svg"):
        answer = site.get(f"/{key}{path}")
        assert answer.status_code in (403, 404), path
        assert TOKEN not in answer.text
        assert "<" not in answer.text
    assert site.post(f"/{key}/sql", data={"sql": "SELECT 1"}, headers={"origin": f"http://{HOST}"}).status_code == 403
    assert site.get("/favicon.ico").status_code == 403


def test_the_key_without_its_slash_leads_to_the_first_page(site: Site) -> None:
    answer = site.get(f"/{TOKEN}")
    assert (answer.status_code, answer.headers["location"]) == (307, f"/{TOKEN}/")


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND", "POST"])
def test_nothing_is_written(site: Site, small: Small, method: str) -> None:
    for path in ("/", f"/runs/{small.text}", f"/vectors/{small.east}", "/static/app.js", "/sql/"):
        answer = site.request(method, f"/{TOKEN}{path}", headers={"origin": f"http://{HOST}"})
        assert answer.status_code == 405, path


@pytest.mark.parametrize(
    "path",
    ["/static/../app.py", "/static/..%2fapp.py", "/static/%2e%2e%2fserver.py", "/static//etc/passwd",
     "/static/....//app.py", "/static/app.js%00.css", "/runs/..%2f..%2f..%2fetc%2fpasswd", "/runs/../../run.json",
     "/runs/abc", f"/runs/{'g' * 64}", f"/runs/{'0' * 64}/samples/0", "/vectors/../index.duckdb",
     f"/vectors/{'0' * 63}/", f"/results/{'0' * 64}", f"/results/{'0' * 64}/report", "/index.duckdb"],
)  # fmt: skip
def test_paths_reach_no_file(site: Site, small: Small, path: str) -> None:
    answer = site.get(f"/{TOKEN}{path}")
    assert answer.status_code in (403, 404), answer.text  # a client resolves `..` itself, and loses the key
    for secret in ("root:", "import ", str(small.root), "Traceback"):
        assert secret not in answer.text


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/runs/{run}", {"offset": "-1"}),
        ("/runs/{run}", {"offset": "9" * 400}),
        ("/runs/{run}", {"search": "x" * 201}),
        ("/runs/{run}", {"concept": "a\x00b"}),
        ("/runs/{run}/samples/0", {"of": "vector:../../x"}),
        ("/runs/{run}/samples/0", {"of": "file:/etc/passwd"}),
        ("/runs/{run}/samples/0", {"of": "norm", "layer": "1e9"}),
        ("/runs/{run}/samples/0", {"of": "norm", "measure": "<b>"}),
        ("/runs/{run}/samples/0/values", {"of": f"vector:{'0' * 64}"}),
        ("/runs/{run}/samples/0/values", {"of": f"feature:{'0' * 64}"}),
        ("/vectors/{vector}", {"run": "../.."}),
        ("/runs/{run}/samples/999999999", {}),
    ],
)
def test_wrong_values_are_errors_without_places(site: Site, small: Small, path: str, asked: dict[str, str]) -> None:
    answer = site.at(path.format(run=small.text, vector=small.east), **asked)
    assert answer.status_code in (400, 404), answer.text
    assert str(small.root) not in answer.text
    assert "Traceback" not in answer.text


def test_every_answer_has_the_headers_that_keep_pages_apart(site: Site, small: Small) -> None:
    for path in (*PAGES, f"/runs/{small.text}", "/static/app.js", "/nothing", f"/runs/{small.text}/samples/0/values"):
        headers = site.at(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["referrer-policy"] == "same-origin"
        assert "set-cookie" not in headers
        assert "access-control-allow-origin" not in headers


def test_a_body_has_a_limit(site: Site) -> None:
    assert site.sql("x" * (MAX_BODY + 1)).status_code == 413
    headers = {"origin": f"http://{HOST}", "content-length": "20"}
    lying = site.post(f"/{TOKEN}/sql", content=b"sql=" + b"y" * (MAX_BODY + 1), headers=headers)
    assert lying.status_code in (400, 413, 500)


@pytest.mark.parametrize("kind", ["text/plain", "application/json", "multipart/form-data; boundary=x", ""])
def test_only_a_form_is_a_statement(site: Site, kind: str) -> None:
    headers = {"origin": f"http://{HOST}", "content-type": kind}
    answer = site.post(f"/{TOKEN}/sql", content=b"sql=SELECT+1", headers=headers)
    assert answer.status_code == 400
    assert "this is no form" in answer.text


def test_a_fault_of_ours_is_told_to_the_terminal_and_not_to_the_browser(
    site: Site, small: Small, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError(f"secret at {small.root}")

    monkeypatch.setattr("steercache.api.cache.Cache.vectors", broken)
    answer = site.at("/vectors")
    assert answer.status_code == 500
    assert not any(word in answer.text for word in ("secret", "ZeroDivisionError", "Traceback", str(Path.cwd())))
    said = capsys.readouterr().err
    assert "ZeroDivisionError in /vectors" in said
    assert TOKEN not in said
