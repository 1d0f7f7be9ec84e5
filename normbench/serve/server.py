"""`normbench serve`: a server for the report and the progress of its runs, by default for this machine alone."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import json
import socket
import sys
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from normbench.serve import page
from normbench.serve.state import State, state
from normbench.system.errors import UserError
from normbench.system.text import complain, say

LOCAL = "localhost"
KEPT = 1.0  # seconds for which all pages are told the same state
HEADERS = {
    # The report is one file: whatever it holds, a browser asks nobody but this server, and shows it in no other page.
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'unsafe-inline'; img-src data: blob:; font-src data:; connect-src 'self' data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def serve(host: str, port: int) -> None:
    """Serves the working directory's report until it is interrupted. port: 0 for one that is free.

    Raises UserError if the address cannot be used.
    """
    server = opened(host, port)
    shown = f"[{host}]" if ":" in host else host
    say(f"http://{shown}:{server.server_address[1]}/ shows the report and its runs; Ctrl-C ends it")
    if not is_local(host):
        complain(f"--host {host}: whoever reaches this machine over the network can read the report")
    with server, contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()
    say("ended")


def opened(host: str, port: int) -> Server:
    """Returns a server at an address. Raises UserError if that cannot be used."""
    if not 0 <= port <= 65535:
        raise UserError(f"--port {port}: must be between 0 and 65535, where 0 takes one that is free")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise UserError(f"--host {host}: no address of this machine: {error.strerror}") from None
    try:
        return Server(host, *found[0][::4])
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            why = "another program uses it; `--port 0` takes one that is free"
            raise UserError(f"--port {port}: {why}") from None
        key = f"--port {port}" if error.errno == errno.EACCES else f"--host {host}"
        raise UserError(f"{key}: {error.strerror or error}") from None


def is_local(host: str) -> bool:
    """Whether only programs on this machine reach an address."""
    try:
        return host == LOCAL or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Server(ThreadingHTTPServer):
    """The server. host: the name or address by which it was asked for."""

    daemon_threads = True

    def __init__(self, host: str, family: int, address: Any):
        self.address_family = socket.AddressFamily(family)
        self.names = {LOCAL, host.lower()} | (set() if is_local(host) else {socket.gethostname().lower()})
        self.lock = threading.Lock()
        self.looked, self.state = -KEPT, State()
        super().__init__(address, Handler)

    def server_bind(self) -> None:
        """Binds the address, without a look-up of the machine's full name, which may take seconds."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Prints an error of one request as a line; a browser that has gone is none."""
        error = sys.exception()
        if not isinstance(error, ConnectionError | TimeoutError):
            complain(f"a request failed: {type(error).__name__}: {error}")

    def knows(self, host: str | None) -> bool:
        """Whether a request means this server by its header `Host`.

        A page from elsewhere could have its own name resolved to this machine, and would then read what is served
        here. Its name stands in the header, whereas an address that is written as a number cannot be such a name.
        """
        name = (host or "").lower().rstrip()
        bare = name.rpartition(":")[0] if name.rpartition(":")[2].isdecimal() and not name.endswith("]") else name
        if bare in self.names:
            return True
        try:
            ipaddress.ip_address(bare[1:-1] if bare.startswith("[") and bare.endswith("]") else bare)
        except ValueError:
            return False
        return True

    def progress(self) -> State:
        """Returns how far the suite is, as it was at most `KEPT` seconds ago."""
        with self.lock:
            if time.monotonic() - self.looked >= KEPT:
                self.state, self.looked = state(), time.monotonic()
            return self.state


class Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD of `/` and `/progress`, and nothing else: it never looks for a file by a name of others."""

    server: Server
    timeout = 30  # seconds for a request to arrive
    server_version, sys_version = "normbench", ""

    def do_GET(self) -> None:
        """Answers with the page or with the state."""
        if not self.server.knows(self.headers.get("Host")) or len(self.headers.get_all("Host", [])) != 1:
            self.send_error(HTTPStatus.FORBIDDEN, explain="ask for it by the address that normbench serve has printed")
            return
        path = self.path.partition("?")[0]
        if path == "/":
            self._answer("text/html; charset=utf-8", page.page(self.server.progress()))
        elif path == "/progress":
            value = self.server.progress().as_json() | {"report": page.version()}
            self._answer("application/json", json.dumps(value).encode())
        else:
            self.send_error(HTTPStatus.NOT_FOUND, explain="there are / and /progress")

    do_HEAD = do_GET

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answers with one line of plain text. What only other servers have is a method that is not allowed."""
        if code == HTTPStatus.NOT_IMPLEMENTED:
            code, explain = HTTPStatus.METHOD_NOT_ALLOWED, "there are GET and HEAD"
        self.close_connection = True
        text = f"{HTTPStatus(code).phrase}{f': {explain}' if explain else ''}\n"
        self._answer("text/plain; charset=utf-8", text.encode(), code)

    def _answer(self, kind: str, content: bytes, code: int = HTTPStatus.OK) -> None:
        self.send_response(code)
        given = {"Content-Type": kind, "Content-Length": str(len(content)), **HEADERS}
        given |= {"Allow": "GET, HEAD"} if code == HTTPStatus.METHOD_NOT_ALLOWED else {}
        for name, value in given.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Prints nothing: a page asks every two seconds."""
