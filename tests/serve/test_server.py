"""The server answers its own machine alone, knows two addresses, and ends cleanly."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from normbench.runs.run import Kind, Run
from normbench.runs.under_way import Notes
from normbench.serve import server
from normbench.serve.server import Server
from normbench.system.errors import UserError
from tests.serve.conftest import TASK, VARIANTS, trained
from tests.support.project import ROOT, environment

Suite = dict[tuple[Kind, str, str, int], Run]
REPORT = Path("results/report.html")
OWN = "<!doctype html><html><body><h1>A report</h1><pre>&lt;/body&gt;</pre></body></html>"


def ask(served: Server, path: str = "/", method: str = "GET", **headers: str) -> tuple[int, dict[str, str], str]:
    """The status, the headers and the text of an answer. headers: `Host` replaces that of the address."""
    connection = http.client.HTTPConnection("127.0.0.1", served.server_port, timeout=10)
    connection.putrequest(method, path, skip_host="Host" in headers)
    for name, value in headers.items():
        if value:
            connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    content = answer.read().decode()
    connection.close()
    return answer.status, dict(answer.headers), content


def progress(served: Server) -> dict[str, Any]:
    status, headers, content = ask(served, "/progress")
    assert (status, headers["Content-Type"]) == (200, "application/json")
    found: dict[str, Any] = json.loads(content)
    return found


class Elements(HTMLParser):
    """The names of the elements of a page, and its text without that of scripts and styles."""

    def __init__(self, page: str):
        super().__init__()
        self.names: list[str] = []
        self.text, self.last = "", ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.last = tag

    def handle_data(self, data: str) -> None:
        self.text += data if self.last not in ("script", "style") else ""


def test_without_a_report(served: Server) -> None:
    status, headers, content = ask(served)
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    page = Elements(content)
    assert "No report yet" in page.text
    assert "0 of 8 runs trained, 8 waiting; 0 scored" in page.text
    assert progress(served)["report"] is None


def test_the_report_with_what_is_under_way(served: Server, suite: Suite) -> None:
    REPORT.parent.mkdir()
    REPORT.write_text(OWN)
    trained(suite[Kind.CLASSIFICATION, TASK, "v", 0])
    name = Kind.CLASSIFICATION, TASK, VARIANTS[1], 1
    Notes(suite[name].id)(0.5, "epoch 1/2, <b>1,000</b> images/s")
    _, _, content = ask(served)
    assert content.startswith(OWN.removesuffix("</body></html>"))
    assert content.endswith("</body></html>")
    page = Elements(content)
    assert page.names.count("script") == 1  # its own, and none of the name of a variant
    assert "b" not in page.names
    for text in (
        "A report",
        "1 of 8 runs trained, 1 running, 6 waiting",
        VARIANTS[1],
        "seed 1",
        "<b>1,000</b> images/s",
    ):
        assert text in page.text
    assert REPORT.read_text() == OWN
    found = progress(served)
    assert found["running"] == [
        {
            "kind": "classification",
            "task": TASK,
            "variant": VARIANTS[1],
            "seed": 1,
            "share": 0.5,
            "text": "epoch 1/2, <b>1,000</b> images/s",
        }
    ]
    assert {key: found[key] for key in ("runs", "trained", "waiting", "scored", "problem", "seconds_left")} == {
        "runs": 8,
        "trained": 1,
        "waiting": 6,
        "scored": 0,
        "problem": "",
        "seconds_left": None,
    }
    assert json.dumps(found["report"]) in content


def test_a_new_report_has_another_version(served: Server) -> None:
    REPORT.parent.mkdir()
    REPORT.write_text(OWN)
    before = progress(served)["report"]
    assert progress(served)["report"] == before
    REPORT.with_name("new").write_text(OWN)
    REPORT.with_name("new").replace(REPORT)
    assert progress(served)["report"] != before


@pytest.mark.parametrize(
    "path",
    [
        "/results/report.html",
        "/results/",
        "/../params.yaml",
        "/..%2fparams.yaml",
        "/progress/",
        "/.",
        "*",
    ],
)
def test_no_other_path(served: Server, path: str) -> None:
    status, _, content = ask(served, path)
    assert (status, content) == (404, "Not Found: there are / and /progress\n")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "X"])
def test_no_other_method(served: Server, method: str) -> None:
    status, headers, content = ask(served, method=method)
    assert (status, headers["Allow"]) == (405, "GET, HEAD")
    assert content == "Method Not Allowed: there are GET and HEAD\n"


@pytest.mark.parametrize("path", ["/", "/progress"])
def test_head(served: Server, path: str) -> None:
    status, headers, content = ask(served, path, "HEAD")
    assert (status, content) == (200, "")
    assert int(headers["Content-Length"]) == len(ask(served, path)[2].encode())


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("localhost:8000", True),
        ("LOCALHOST", True),
        ("127.0.0.1:1", True),  # a port that is forwarded
        ("[::1]:8000", True),
        ("[::1]", True),
        ("192.168.1.2:80", True),
        ("evil.example", False),
        ("evil.example:8000", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("", False),
        ("localhost:8000@evil.example", False),
        ("[::1", False),
        (socket.gethostname() + ".", False),
    ],
)
def test_a_name_of_somebody_else_is_refused(served: Server, host: str, known: bool) -> None:
    for path in ("/", "/progress"):
        status, _, content = ask(served, path, Host=host)
        assert status == (200 if known else 403)
        assert known or content == "Forbidden: ask for it by the address that normbench serve has printed\n"


def test_names_of_a_server_for_others() -> None:
    with server.opened("localhost", 0) as own:
        assert own.knows("localhost:1")
        assert not own.knows(f"{socket.gethostname()}:1")
    with server.opened("0.0.0.0", 0) as open_to_all:
        assert open_to_all.knows(f"{socket.gethostname()}:1")
        assert not open_to_all.knows("evil.example:1")


def test_a_browser_is_told_to_ask_nobody_else(served: Server) -> None:
    for path in ("/", "/progress", "/nothing"):
        headers = ask(served, path)[1]
        rules = dict(each.strip().split(" ", 1) for each in headers["Content-Security-Policy"].split(";"))
        assert rules["default-src"] == "'none'"
        assert rules["connect-src"] == "'self' data:"
        assert rules["frame-ancestors"] == "'none'"
        assert "http" not in headers["Content-Security-Policy"]
        assert "Access-Control-Allow-Origin" not in headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    "sent", [b"nonsense\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /" + b"a" * 70000, b"\0\r\n\r\n"]
)
def test_what_is_no_request(served: Server, sent: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_connection(("127.0.0.1", served.server_port), timeout=10) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(4096):
            pass
    assert ask(served)[0] == 200
    assert capfd.readouterr().err == ""


def test_the_address_is_in_use() -> None:
    with server.opened("127.0.0.1", 0) as first, pytest.raises(UserError) as error:
        server.opened("127.0.0.1", first.server_port)
    assert str(error.value) == (
        f"--port {first.server_port}: another program uses it; `--port 0` takes one that is free"
    )


@pytest.mark.parametrize(
    ("host", "port", "problem"),
    [
        ("127.0.0.1", 65536, "--port 65536: must be between 0 and 65535"),
        ("127.0.0.1", -1, "--port -1: must be between 0 and 65535"),
        ("no.such.name.invalid", 0, "--host no.such.name.invalid: no address of this machine"),
        ("192.0.2.1", 0, "--host 192.0.2.1: "),
    ],
)
def test_addresses_that_cannot_be_used(host: str, port: int, problem: str) -> None:
    with pytest.raises(UserError) as error:
        server.opened(host, port)
    assert str(error.value).startswith(problem)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_the_command_ends_cleanly(number: signal.Signals, suite: Suite, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "normbench", "serve", "--port", "0"],
        cwd=tmp_path,
        env=environment(ROOT),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    address = line.split()[0]
    assert line == f"{address} shows the report and its runs; Ctrl-C ends it\n"
    assert address.startswith("http://127.0.0.1:")
    connection = http.client.HTTPConnection(address.split("/")[2], timeout=30)
    connection.request("GET", "/progress")
    assert json.loads(connection.getresponse().read())["runs"] == 8
    process.send_signal(number)
    out, error = process.communicate(timeout=30)
    assert (out, error) == ("ended\n" if number == signal.SIGINT else "", "")
    assert process.returncode == (0 if number == signal.SIGINT else 75)


def test_it_does_not_import_torch(suite: Suite) -> None:
    code = "import sys; from normbench.serve import server, state; state.state(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=environment(ROOT), capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("False\n", "")
