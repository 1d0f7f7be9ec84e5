"""A server may do what it likes: a download ends in the right bytes or in one line for each address, and in time."""

from __future__ import annotations

import errno
import gzip
import os
import queue
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from normbench.data import fetch, http
from normbench.system import files
from normbench.system.errors import UserError
from tests.support.archive_server import Server
from tests.support.prepared import md5
from tests.support.raw_server import RawServer

pytestmark = pytest.mark.usefixtures("own_folders")
ROOT = Path(__file__).resolve().parents[2]
CONTENT = np.random.default_rng(0).integers(0, 256, 700_000, np.uint8).tobytes()
LENGTH = b"Content-Length: 700000\r\n"
OK = b"HTTP/1.1 200 OK\r\n"

Answer = Callable[[socket.socket, bytes], None]


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "WAITS", (0.0, 0.0))
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1,localhost")


@pytest.fixture
def short_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """For servers that would never send more, so that it does not matter how busy this machine is."""
    monkeypatch.setattr(http, "WINDOW", 0.4)


@pytest.fixture
def raw() -> Iterator[Callable[..., RawServer]]:
    made: list[RawServer] = []

    def make(answer: Answer | bytes, **options: Any) -> RawServer:
        content = answer
        made.append(RawServer((lambda c, _: c.sendall(content)) if isinstance(content, bytes) else content, **options))
        return made[-1]

    yield make
    for server in made:
        server.close()


def get(*addresses: str, largest: int = len(CONTENT), mirror: str | None = None) -> Path:
    archive = fetch.Archive("a.bin", md5(CONTENT), tuple(f"{place}a.bin" for place in addresses), largest)
    return fetch.fetch([archive], Path("down"), "mine", "source", mirror)[0]


def refused(*addresses: str, **options: Any) -> str:
    """The line about the last address; the file is not there, and no thread of the request is left at work."""
    with pytest.raises(UserError) as caught:
        get(*addresses, **options)
    assert not Path("down/a.bin").exists()
    lines = str(caught.value).splitlines()
    end = lines.index("any one of these helps:")
    assert lines[0] == "dataset 'mine': no copy of"
    assert end == 3 + 1 + len(addresses)  # one line for each address
    assert all(line.isprintable() and len(line) < 330 for line in lines)
    return lines[end - 1].partition("a.bin: ")[2]


CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
ANSWERS: dict[str, tuple[bytes, str]] = {
    "no HTTP": (b"SSH-2.0-OpenSSH_9.6\r\n", "no answer in HTTP: SSH-2.0-OpenSSH_9.6"),
    "escape sequences": (b"HTTP/1.1 \x1b[2J\x1b]0;x\x07 no\r\n\r\n", "no answer in HTTP: HTTP/1.1 [2J ]0;x no"),
    "a status that is no number": (b"HTTP/1.1 abc OK\r\n\r\n", "no answer in HTTP: HTTP/1.1 abc OK"),
    "a status out of range": (b"HTTP/1.1 99999 OK\r\n\r\n", "no answer in HTTP: HTTP/1.1 99999 OK"),
    "nothing": (b"", "Remote end closed connection without response"),
    "half a head": (b"HTTP/1.1 200 OK\r\nContent-Le", "another file"),
    "an escape in the reason": (b"HTTP/1.1 403 \x1b[31mno\r\n\r\n", "HTTP 403 [31mno"),
    "a long reason": (b"HTTP/1.1 403 " + b"x" * 60000 + b"\r\n\r\n", "HTTP 403 xxx"),
    "a long status line": (b"HTTP/1.1 200 " + b"x" * 70000 + b"\r\n\r\n", "got more than 65536 bytes"),
    "many headers": (OK + b"X: y\r\n" * 200 + b"\r\n", "got more than 100 headers"),
    "a length that is no number": (OK + b"Content-Length: abc\r\n\r\n" + CONTENT, "sends Content-Length: abc"),
    "a negative length": (OK + b"Content-Length: -5\r\n\r\n" + CONTENT, "sends Content-Length: -5"),
    "two lengths": (OK + b"Content-Length: 5\r\n" + LENGTH + b"\r\n" + CONTENT, "sends Content-Length: 5, 700000"),
    "a length with many digits": (OK + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", "sends Content-Length: 999"),
    "a length above the limit": (OK + b"Content-Length: 700001\r\n\r\n", "has 700001 bytes; a.bin has at most 700000"),
    "a length that is too long": (OK + LENGTH + b"\r\n" + CONTENT[:99], "connection closed after 99 of 700000 bytes"),
    "no length, and too little": (OK + b"\r\n" + CONTENT[:99], "99 bytes: another file"),
    "garbage for chunks": (CHUNKED + b"zz\r\nabc", "the body broke off, or is garbled"),
    "a chunk of negative size": (CHUNKED + b"-5\r\nabc\r\n0\r\n\r\n", "the body broke off, or is garbled"),
    "a broken chunk": (CHUNKED + b"ff\r\nabc", "the body broke off, or is garbled"),
    "a chunk of a huge size": (CHUNKED + b"f" * 70000 + b"\r\nabc", "got more than 65536 bytes"),
    "another code that is no error": (b"HTTP/1.1 204 No Content\r\n\r\n", "HTTP 204 No Content"),
    "a part that was not asked for": (
        b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 5-9/700000\r\n\r\nabcde",
        "the server sent another range than the one asked for",
    ),
    "a part without its range": (b"HTTP/1.1 206 Partial\r\n\r\nabc", "the server sent another range than"),
    "a part with a wrong range": (
        b"HTTP/1.1 206 Partial\r\nContent-Range: bytes x-y/z\r\n\r\nabc",
        "the server sent another range than",
    ),
    "a part that is longer than it says": (
        b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 0-9/10\r\n\r\nabcdefghijklmnop",
        "sends more than the 10 bytes that a.bin has",
    ),
    "416 for the whole": (b"HTTP/1.1 416 no\r\n\r\n", "HTTP 416 no"),
    "compressed": (
        OK + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(CONTENT, mtime=0)[:400],
        "400 bytes: another file, sent with Content-Encoding: gzip",
    ),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_each_misbehaviour_is_one_line(case: str, raw: Callable[..., RawServer]) -> None:
    content, line = ANSWERS[case]
    server = raw(content)
    assert line in refused(server.address)
    assert len(server.requests) <= 6  # three, at most twice


@pytest.mark.parametrize("case", ["no HTTP", "a length that is no number", "garbage for chunks", "compressed"])
def test_the_next_address_is_tried(case: str, raw: Callable[..., RawServer], server: Server) -> None:
    server.contents["a.bin"] = CONTENT
    assert get(raw(ANSWERS[case][0]).address, server.address).read_bytes() == CONTENT


def test_what_a_server_may_do(raw: Callable[..., RawServer]) -> None:
    """No length, chunks, a length that is said twice, and bytes that are only said to be compressed."""
    for head in (b"", LENGTH * 2, LENGTH + b"Content-Encoding: x-gzip\r\n"):
        assert get(raw(OK + head + b"\r\n" + CONTENT).address).read_bytes() == CONTENT
        Path("down/a.bin").unlink()
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(c), c) for c in (CONTENT[:300_000], CONTENT[300_000:]))
    assert get(raw(CHUNKED + chunks + b"0\r\n\r\n").address).read_bytes() == CONTENT


# ------------------------------------------------------------------------------------------------- size and time


@pytest.mark.parametrize("head", [OK + b"\r\n", CHUNKED])
def test_an_endless_body_stops_at_the_size_of_the_archive(head: bytes, raw: Callable[..., RawServer]) -> None:
    sent = []

    def endless(connection: socket.socket, request: bytes) -> None:
        connection.sendall(head)
        while True:
            block = b"x" * 65536
            connection.sendall(b"10000\r\n" + block + b"\r\n" if head == CHUNKED else block)
            sent.append(len(block))

    assert refused(raw(endless).address) == "sends more than the 700000 bytes that a.bin has"
    assert not Path("down/a.bin.part").exists()
    assert sum(sent) < 50_000_000  # what the sockets and the waiting chunks hold


@pytest.mark.usefixtures("short_window")
@pytest.mark.parametrize(
    "head",
    [b"", b"HTTP/1.1 200 OK\r\nX-", OK + b"\r\n", OK + LENGTH + b"\r\n", CHUNKED],
    ids=["status", "header", "body", "body of known length", "chunks"],
)
def test_a_trickle_ends(head: bytes, raw: Callable[..., RawServer]) -> None:
    """A byte now and then keeps every timeout of the sockets from passing."""
    server: RawServer

    def answer(connection: socket.socket, request: bytes) -> None:
        connection.sendall(head)
        server.trickle(connection, b"1\r\nx\r\n" if head == CHUNKED else b"1")

    server = raw(answer)
    assert "bytes in 0.4 seconds" in refused(server.address)
    assert len(server.requests) == 3


@pytest.mark.usefixtures("short_window")
def test_endless_continues_end(raw: Callable[..., RawServer]) -> None:
    server: RawServer

    def answer(connection: socket.socket, request: bytes) -> None:
        while not server.ended.is_set():
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            time.sleep(0.01)

    server = raw(answer)
    assert refused(server.address) == "too slow: 0 bytes in 0.4 seconds"


@pytest.mark.usefixtures("short_window")
def test_a_handshake_that_trickles_ends(raw: Callable[..., RawServer]) -> None:
    server: RawServer

    def answer(connection: socket.socket, request: bytes) -> None:
        server.trickle(connection, b"\x16\x03\x03\x40\x00" + b"\x02" * 1000)

    server = raw(answer, listens=False)
    assert "in 0.4 seconds" in refused(server.address.replace("http:", "https:"))


def test_a_byte_a_connection_ends(raw: Callable[..., RawServer]) -> None:
    """Each request brings one byte more, as a resumed download; that is no progress."""

    def answer(connection: socket.socket, request: bytes) -> None:
        start = int(request.partition(b"bytes=")[2].partition(b"-")[0] or 0)
        head = (
            b"HTTP/1.1 206 Partial\r\nContent-Range: bytes %d-699999/700000\r\n\r\n" % start if start else OK + LENGTH
        )
        connection.sendall(head + (b"" if start else b"\r\n") + CONTENT[start : start + 1])

    server = raw(answer)
    assert refused(server.address) == "connection closed after 3 of 700000 bytes"
    assert len(server.requests) == 3
    assert Path("down/a.bin.part").read_bytes() == CONTENT[:3]


def test_a_server_that_takes_back_what_it_sent_ends(raw: Callable[..., RawServer]) -> None:
    """Much is sent, then another range is answered, so that the part is dropped: over and over no progress."""

    def answer(connection: socket.socket, request: bytes) -> None:
        if b"Range" in request:
            connection.sendall(b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 1-9/700000\r\n\r\n")
        else:
            connection.sendall(OK + LENGTH + b"\r\n" + CONTENT[:200_000])

    server = raw(answer)
    refused(server.address)
    assert len(server.requests) <= 6


def test_the_longest_time(raw: Callable[..., RawServer], monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is fast enough, and would go on beyond it; what has arrived is kept."""
    monkeypatch.setattr(fetch, "LONGEST", 0.5)
    monkeypatch.setattr(http, "LEAST", 0.0)
    server: RawServer

    def answer(connection: socket.socket, request: bytes) -> None:
        connection.sendall(OK + LENGTH + b"\r\n" + CONTENT[:1000])
        server.ended.wait(60)

    server = raw(answer)
    assert refused(server.address) == "not whole after the longest time; the same command goes on with it"
    assert Path("down/a.bin.part").read_bytes() == CONTENT[:1000]


def test_a_slow_disk_is_no_slow_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the time that is spent in waiting for the server counts."""
    clock = [0.0]
    monkeypatch.setattr(http.time, "monotonic", lambda: clock[0])
    channel: queue.Queue[bytes | None] = queue.Queue()
    for item in (b"a", b"b", b"c", None):
        channel.put(item)
    received = b""
    for chunk in http._in_time(channel, deadline=1e9):
        received += chunk
        clock[0] += 1000  # the disk
    assert received == b"abc"


def test_a_part_that_is_larger_than_the_archive_is_dropped(server: Server) -> None:
    server.contents["a.bin"] = CONTENT
    Path("down").mkdir()
    Path("down/a.bin.part").write_bytes(CONTENT + b"x")
    assert get(server.address).read_bytes() == CONTENT
    assert [asked for _, asked, _, _ in server.log] == [None]


# --------------------------------------------------------------------------------------------- addresses, redirects


def redirect(location: str, code: int = 302) -> bytes:
    return f"HTTP/1.1 {code} Moved\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode("latin-1")


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed(code: int, raw: Callable[..., RawServer], server: Server) -> None:
    server.contents["a%20b/%C3%A4.bin"] = CONTENT
    Path("down").mkdir()
    Path("down/a.bin.part").write_bytes(CONTENT[:300_000])
    assert get(raw(redirect(f"{server.address}a b/ä.bin".encode().decode("latin-1"), code)).address)
    assert server.log == [("a%20b/%C3%A4.bin", "bytes=300000-", 206, 400_000)]


def test_a_relative_redirect_is_followed(raw: Callable[..., RawServer]) -> None:
    whole = OK + LENGTH + b"\r\n" + CONTENT
    server = raw(lambda c, request: c.sendall(whole if b"GET /x " in request else redirect("/x")))
    assert get(server.address).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("location", "line"),
    [
        ("ftp://127.0.0.1:9/a.bin", "redirects to ftp://127.0.0.1:9/a.bin: only http:// and https:// are followed, not ftp:"),
        ("file:///etc/passwd", "redirects to file:///etc/passwd: only http:// and https:// are followed, not file:"),
        ("ftp://user:secret@127.0.0.1/a", "redirects to ftp://127.0.0.1/a: only http:// and https:// are followed"),
        ("data:text/plain,x", "only http:// and https:// are followed, not data:"),
        ("http://[::1/a", "redirects to http://[::1/a: not a valid address"),
        ("http://127.0.0.1:99999/a", "not a valid address"),
        ("http://a..b/", "not a valid address"),
        ("\x1b[2J", "HTTP 404"),
    ],
)  # fmt: skip
def test_a_redirect_elsewhere_is_refused(location: str, line: str, raw: Callable[..., RawServer]) -> None:
    lost = b"HTTP/1.1 404 no\r\n\r\n"
    server = raw(lambda c, request: c.sendall(lost if b"2J" in request else redirect(location)))
    found = refused(server.address)
    assert line in found
    assert "secret" not in found
    assert len(server.requests) <= 2


def test_redirects_in_a_circle_end(raw: Callable[..., RawServer]) -> None:
    server = raw(redirect("/a.bin"))
    assert refused(server.address) == "redirects more than 5 times"
    assert len(server.requests) == 6


def test_a_redirect_without_an_address(raw: Callable[..., RawServer]) -> None:
    assert refused(raw(b"HTTP/1.1 302 Found\r\n\r\n").address) == "HTTP 302 without the address that it redirects to"


def test_from_https_to_http_is_not_followed() -> None:
    here = http.parsed("https://example.org/a")
    assert http._redirected(here, "//example.com/b").geturl() == "https://example.com/b"
    with pytest.raises(http.Refused, match="from https:// to http:// is not followed"):
        http._redirected(here, "http://example.org/b")


@pytest.mark.parametrize("address", ["http://[::1/", "http://h:port/", "http://h:99999/", "http://a..b/", "http:///"])
def test_an_address_that_is_none(address: str) -> None:
    assert "not a valid address" in refused(address)


@pytest.mark.parametrize(
    ("mirror", "line"),
    [
        ("ftp://h/m", "dataset 'mine': mirror = ftp://h/m: must be a folder or begin with http:// or https://"),
        ("s3://bucket/m", "dataset 'mine': mirror = s3://bucket/m: must be a folder or begin with http:// or https://"),
        ("file:///m", "dataset 'mine': mirror = file:///m: must be a folder or begin with http:// or https://; name a folder without `file:`"),
        ("http:/h/m", "dataset 'mine': mirror = http:/h/m: must be a folder or begin with http:// or https://"),
        ("http://[::1/m", "dataset 'mine': mirror = http://[::1/m: not a valid address"),
        ("http://u:se/cr@et@h:x/m", "dataset 'mine': mirror = http://h:x/m: not a valid address"),
        ("sftp://u:secret@h/m", "dataset 'mine': mirror = sftp://h/m: must be a folder or begin with http:// or https://"),
    ],
)  # fmt: skip
def test_a_mirror_that_is_no_place(mirror: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError) as caught:
        get(mirror=mirror)
    assert str(caught.value) == line
    monkeypatch.setenv("NORMBENCH_MIRROR", mirror)
    with pytest.raises(UserError) as caught:
        get()
    assert str(caught.value) == line.replace("mirror =", "NORMBENCH_MIRROR =")
    assert not Path("down").exists()


def test_user_and_password_are_sent_and_never_printed(raw: Callable[..., RawServer]) -> None:
    """They are for the server that they are given with, and not for those to which it redirects."""
    other = raw(b"HTTP/1.1 404 no\r\n\r\n")
    server = raw(redirect(f"{other.address}b"))
    place = server.address.replace("//", "//me:s%40cret@")
    with pytest.raises(UserError) as caught:
        get(mirror=place)
    assert "cret" not in str(caught.value)
    assert f"mirror: {server.address}" in str(caught.value)
    assert f"{server.address}a.bin: HTTP 404 no" in str(caught.value)
    assert all(b"Authorization: Basic bWU6c0BjcmV0\r\n" in request for request in server.requests)  # me:s@cret
    assert len(server.requests) == len(other.requests) == 2
    assert not any(b"Authorization" in request for request in other.requests)


# ------------------------------------------------------------------------------------- proxies, names, certificates


def test_a_proxy_is_used_and_named(raw: Callable[..., RawServer], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("NO_PROXY", "")
    proxy = raw(OK + LENGTH + b"\r\n" + CONTENT)
    monkeypatch.setenv("http_proxy", proxy.address.replace("//", "//me:secret@"))
    assert get("http://data.invalid/").read_bytes() == CONTENT
    assert proxy.requests[0].startswith(b"GET http://data.invalid/a.bin HTTP/1.1\r\n")
    Path("down/a.bin").unlink()
    proxy.answer = lambda c, _: c.sendall(b"HTTP/1.1 403 Forbidden\r\n\r\n")
    monkeypatch.setenv("https_proxy", proxy.address.replace("//", "//me:secret@"))
    found = refused("https://data.invalid/")
    assert found == f"Tunnel connection failed: 403 Forbidden (by the proxy {proxy.address})"
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert refused("http://data.invalid/") == "Connection refused (by the proxy http://127.0.0.1:9)"
    monkeypatch.setenv("http_proxy", "http://")
    assert "proxy" in refused("http://data.invalid/")


def test_a_name_that_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert refused("http://data.invalid/") == "Name or service not known"


@pytest.mark.usefixtures("short_window")
def test_a_name_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: ended.wait(60))
    assert refused("http://data.invalid/") == "too slow: 0 bytes in 0.4 seconds"
    ended.set()


def test_no_tls_and_no_certificate(raw: Callable[..., RawServer], tmp_path: Path) -> None:
    plain = raw(OK + LENGTH + b"\r\n" + CONTENT, listens=False)
    assert "SSL" in refused(plain.address.replace("http:", "https:"))
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=127.0.0.1"]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = raw(OK + LENGTH + b"\r\n" + CONTENT, context=context)
    assert refused(server.address) == "its certificate is not accepted: self-signed certificate"
    assert server.requests == []


# ------------------------------------------------------------------------------------------- disks, and others


def test_a_disk_without_room_is_one_line_before_anything_is_written(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.contents["a.bin"] = CONTENT
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 699_999))
    with pytest.raises(OSError, match=r"No space left on device \(needs about 700\.0 kB\)") as caught:
        get(server.address)
    assert caught.value.filename == "down/a.bin.part"
    assert [path.name for path in Path("down").iterdir()] == [".lock"]


LIMITED = """
import resource, sys
from normbench.system.errors import line
from tests.data.test_untrusted_server import get
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    get(*sys.argv[1:2], mirror=next(iter(sys.argv[2:]), None))
except OSError as error:
    print(line(error))
"""


def limited(*arguments: str) -> str:
    """What a process says that may write no file of more than 100,000 bytes. arguments: the address, a mirror."""
    command = [sys.executable, "-c", LIMITED, *arguments]
    return subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True).stdout


@pytest.mark.parametrize("head", [OK + LENGTH + b"\r\n", OK + b"\r\n"])
def test_a_disk_that_is_full_in_the_middle(head: bytes, raw: Callable[..., RawServer]) -> None:
    server = raw(head + CONTENT)
    needs = " (needs about 700.0 kB)" if b"Length" in head else ""
    assert limited(server.address) == f"down/a.bin.part: File too large{needs}\n"
    assert [path.name for path in Path("down").iterdir()] == [".lock"]


def test_a_mirror_folder_and_a_full_disk(tmp_path: Path) -> None:
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror/a.bin").write_bytes(CONTENT)
    said = limited("", str(tmp_path / "mirror"))
    assert said == "down/a.bin.part: File too large (needs about 700.0 kB)\n"
    assert [path.name for path in Path("down").iterdir()] == [".lock"]


def test_a_quota(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.contents["a.bin"] = CONTENT

    def full(*_: object) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(fetch.Progress, "update", full)  # called beside each write
    with pytest.raises(OSError, match=r"Disk quota exceeded \(needs about 700\.0 kB\)"):
        get(server.address)
    assert [path.name for path in Path("down").iterdir()] == [".lock"]


def test_a_file_where_the_folder_should_be(server: Server) -> None:
    server.contents["a.bin"] = CONTENT
    Path("down").write_text("a user's")
    with pytest.raises(UserError, match=r"^down: a file, where a folder is needed; move it away$"):
        get(server.address)
    assert Path("down").read_text() == "a user's"


def test_two_processes_at_once_fetch_once(server: Server) -> None:
    server.contents["a.bin"] = CONTENT
    server.gate.clear()
    code = (
        "import sys\nfrom pathlib import Path\nfrom normbench.data import fetch\n"
        "archive = fetch.Archive('a.bin', sys.argv[2], (sys.argv[1] + 'a.bin',), 700000)\n"
        "fetch.fetch([archive], Path('down'), 'mine', 'source', None)\n"
    )
    command = [sys.executable, "-c", code, server.address, md5(CONTENT)]
    both = [subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE) for _ in "ab"]
    for _ in range(200):
        if len(server.log) >= 1:
            break
        time.sleep(0.05)
    assert fetch.parts(Path("down")) == []  # for whoever wants to remove them
    server.gate.set()
    assert [one.wait(60) for one in both] == [0, 0]
    assert len(server.log) == 1
    assert files.sha256("down/a.bin") == files.hashlib.sha256(CONTENT).hexdigest()
    Path("down/b.part").touch()
    assert fetch.parts(Path("down")) == [Path("down/b.part")]
