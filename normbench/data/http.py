"""One request to a server that is not trusted: whatever it does ends in data, or in a reason of one line, in time.

The request runs in a thread of its own that only passes on what arrives. So name servers, handshakes, headers and
bodies that trickle are all stopped by the same measure: too few bytes of the body in a window of time.
"""

from __future__ import annotations

import base64
import queue
import re
import ssl
import string
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import BadStatusLine, HTTPException, IncompleteRead
from typing import Any
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit, urlunsplit

from normbench import __version__

TIMEOUT = 20.0  # seconds without data after which a connection counts as broken
WINDOW, LEAST = 30.0, 1000.0  # seconds of waiting, and the least bytes of a body for each of them
REDIRECTS = 5
CHUNK = 1 << 18  # bytes that are read at a time
WAITING = 8  # chunks that may wait to be taken
LONGEST_TEXT = 200  # characters of what a server says that are passed on


class Unavailable(Exception):
    """Why an archive could not be had from one folder or address, in one line. Another request may help."""


class Refused(Unavailable):
    """The same where another request would not help."""


@dataclass
class Answer:
    """The head of an answer, and its body as an iterator over chunks of bytes.

    status: 200, 206 or 416. start: of a part of a file (206), its first byte, or -1 if the server does not say. total:
    the bytes of the whole file, or None if the server does not say. encoding: the Content-Encoding, if there is one.
    """

    status: int
    start: int = 0
    total: int | None = None
    encoding: str = ""
    body: Iterator[bytes] = field(default_factory=lambda: iter(()))

    def __iter__(self) -> Iterator[bytes]:
        return self.body


@contextmanager
def request(address: str, start: int, deadline: float) -> Iterator[Answer]:
    """Yields the answer to a request for a file from its byte `start` on.

    deadline: of `time.monotonic`, for all of it. Raises Unavailable or Refused, here or from the body.
    """
    channel: queue.Queue[Answer | bytes | Exception | None] = queue.Queue(WAITING)
    ended = threading.Event()

    def put(item: Answer | bytes | Exception | None) -> None:
        while not ended.is_set():
            try:
                channel.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def work() -> None:
        try:
            with _opened(address, start) as response:
                put(_head(response))
                while not ended.is_set() and (chunk := response.read1(CHUNK)):
                    put(chunk)
            put(None)
        except Exception as error:
            put(_explained(error, address))

    threading.Thread(target=work, daemon=True).start()  # It may be stuck, and nothing is to wait for it then.
    try:
        items = _in_time(channel, deadline)
        first = next(items)
        if not isinstance(first, Answer):
            raise TypeError("the answer comes before its content")
        first.body = items
        yield first
    finally:
        ended.set()


def _in_time(channel: queue.Queue[Any], deadline: float) -> Iterator[Any]:
    """Yields what arrives until None does. Raises the errors that arrive, and Unavailable if too little does."""
    waited, received = 0.0, 0  # in this window; the time that the receiver takes does not count
    while True:
        now = time.monotonic()
        if now >= deadline:
            raise Refused("not whole after the longest time; the same command goes on with it")
        if waited >= WINDOW:
            if received < LEAST * WINDOW:
                raise Unavailable(f"too slow: {received} bytes in {WINDOW:g} seconds")
            waited, received = 0.0, 0
        try:
            item = channel.get(timeout=min(deadline - now, WINDOW - waited))
        except queue.Empty:
            continue
        finally:
            waited += time.monotonic() - now
        if isinstance(item, Exception):
            raise item
        if item is None:
            return
        received += len(item) if isinstance(item, bytes) else 0
        yield item


def parsed(address: str) -> SplitResult:
    """Returns the parts of an http(s) address. Raises Refused if it is none."""
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
        named = (host or "").encode("idna")
    except ValueError:  # Its text may have a part of a password.
        raise Refused("not a valid address") from None
    if parts.scheme not in ("http", "https"):
        raise Refused(f"only http:// and https:// are followed, not {_plain(parts.scheme) or 'this'}:")
    if not named or re.search(r"[\s\x00-\x1f\x7f]", parts.netloc):
        raise Refused("not a valid address: no name of a server in it")
    return parts


def shown(place: str) -> str:
    """Returns an address or a path for messages: without user and password, and without control characters."""
    return _plain(re.sub("//.*@", "//", place, flags=re.DOTALL))


def _without_user(text: str) -> str:
    return re.sub(r"//[^\s'\"]*@", "//", text)


def _plain(text: str) -> str:
    """Returns text as one line without control characters."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def _opened(address: str, start: int) -> Any:
    """Opens an address, and those to which it redirects. Raises Refused, and the errors of urllib and http.client."""
    opener = urllib.request.OpenerDirector()  # without the handlers for files, FTP and redirects
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    parts, user = parsed(address), _authorization(parsed(address))
    origin = parts
    for _ in range(REDIRECTS + 1):
        headers = {"User-Agent": f"normbench/{__version__}"}
        headers |= {"Range": f"bytes={start}-"} if start else {}
        headers |= user if _server(parts) == _server(origin) else {}
        try:
            return opener.open(urllib.request.Request(_sent(parts), headers=headers), timeout=TIMEOUT)
        except urllib.error.HTTPError as error:
            if error.code == 416 and start:
                return error
            if error.code not in (301, 302, 303, 307, 308):
                raise
            location = error.headers.get("Location")
            error.close()
            if location is None:
                raise Refused(f"HTTP {error.code} without the address that it redirects to") from None
            parts = _redirected(parts, location)
    raise Refused(f"redirects more than {REDIRECTS} times")


def _server(parts: SplitResult) -> tuple[str, str | None, int | None]:
    return parts.scheme, parts.hostname, parts.port


def _redirected(parts: SplitResult, location: str) -> SplitResult:
    """Returns the address of a redirect. Raises Refused if it is not one to follow."""
    try:
        target = urljoin(urlunsplit(parts), quote(location, safe=string.punctuation, encoding="latin-1"))
        found = parsed(target)
    except (Refused, ValueError) as error:
        reason = error if isinstance(error, Refused) else "not a valid address"
        raise Refused(f"redirects to {shown(location)[:LONGEST_TEXT]}: {reason}") from None
    if parts.scheme == "https" and found.scheme == "http":
        raise Refused(f"redirects to {shown(location)[:LONGEST_TEXT]}: from https:// to http:// is not followed")
    return found


def _sent(parts: SplitResult) -> str:
    """Returns an address as it is sent: without user, password and fragment, and with special characters escaped."""
    host = parts.netloc.rpartition("@")[2]
    if not host.isascii():
        port = "" if parts.port is None else f":{parts.port}"
        host = (parts.hostname or "").encode("idna").decode() + port
    path, query = (quote(part, safe=string.punctuation) for part in (parts.path, parts.query))
    return urlunsplit((parts.scheme, host, path or "/", query, ""))


def _authorization(parts: SplitResult) -> dict[str, str]:
    """Returns the header for the user and the password in an address, if it has them."""
    if parts.username is None:
        return {}
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}


def _head(response: Any) -> Answer:
    """Returns the head of an answer. Raises Refused where it has another status or contradicts itself."""
    headers, status = response.headers, response.status
    encoding = _plain(headers.get("Content-Encoding", ""))
    encoding = "" if encoding.lower() == "identity" else encoding
    if status == 416:
        return Answer(status)
    if status == 206:
        sent = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", headers.get("Content-Range", "").strip())
        if sent is None:
            return Answer(status, -1)
        total = None if sent[3] == "*" else int(sent[3])
        return Answer(status, int(sent[1]), total, encoding)
    if status != 200:
        raise Refused(f"HTTP {status} {_plain(response.reason or '')[:LONGEST_TEXT]}".rstrip())
    lengths = {length.strip() for length in headers.get_all("Content-Length", [])}
    if len(lengths) > 1 or not all(re.fullmatch(r"\d{1,18}", length) for length in lengths):
        raise Refused(f"sends Content-Length: {_plain(', '.join(sorted(lengths)))[:LONGEST_TEXT]}")
    return Answer(status, 0, int(lengths.pop()) if lengths else None, encoding)


def _explained(error: Exception, address: str) -> Exception:
    """Returns a failed request as a reason, e.g. `HTTP 404 Not Found`; Refused if repeating it would not help.

    What a server sends makes the libraries raise errors of the system, of HTTP and of values. Others are returned.
    """
    if isinstance(error, Unavailable) or not isinstance(error, OSError | HTTPException | ValueError | OverflowError):
        return error
    if isinstance(error, urllib.error.HTTPError):
        kind = Unavailable if error.code >= 500 or error.code in (408, 429) else Refused
        return kind(f"HTTP {error.code} {_plain(str(error.reason))[:LONGEST_TEXT]}".rstrip())
    cause: Any = error.reason if isinstance(error, urllib.error.URLError) else error
    kind = Unavailable
    if isinstance(error, urllib.error.URLError) and isinstance(cause, TimeoutError):
        kind = Refused  # Connecting timed out, which took long enough.
    elif isinstance(cause, ssl.SSLCertVerificationError):
        kind, cause = Refused, f"its certificate is not accepted: {cause.verify_message}"
    elif isinstance(cause, IncompleteRead):
        cause = "the body broke off, or is garbled"
    elif isinstance(cause, BadStatusLine) and not isinstance(cause, ConnectionError):
        cause = f"no answer in HTTP: {cause}"
    text = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
    return kind(_plain(_without_user(str(text)))[:LONGEST_TEXT] + _by_proxy(address))


def _by_proxy(address: str) -> str:
    """Returns the proxy of a request, for messages."""
    parts = urlsplit(address)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy is None or urllib.request.proxy_bypass(parts.hostname or ""):
        return ""
    return f" (by the proxy {shown(proxy)})"
