"""A local HTTP server for archives that can break off, refuse and send wrong bytes."""

from __future__ import annotations

import http.server
import threading


class Server:
    """Serves `contents` (path -> bytes) over HTTP.

    `statuses`, `cut` and `wrong` hold a list of faults for some paths. A request removes the first entry of its path's
    list; when the list is empty, requests are answered correctly. An answer has the status in `statuses`, or only as
    many bytes of the body as `cut` says, or the body in `wrong`.

    ranges: whether a request for the rest of a file is answered with the rest or with the whole file. log: the path,
    the Range header, the status and the number of sent bytes of each answer. gate: answers wait until it is set; it is
    set at first.
    """

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        self.ranges = True
        self.statuses: dict[str, list[int]] = {}
        self.cut: dict[str, list[int]] = {}
        self.wrong: dict[str, list[bytes]] = {}
        self.log: list[tuple[str, str | None, int, int]] = []
        self.gate = threading.Event()
        self.gate.set()
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.answer(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.http.server_address[1]}/"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        """Answers a request, with the next fault of its path if there is one."""
        name, wanted = request.path.lstrip("/"), request.headers.get("Range")
        body, status, headers = self.contents.get(name, b""), 200, {}
        if self.wrong.get(name):
            body = self.wrong[name].pop(0)
        if self.statuses.get(name):
            body, status = b"", self.statuses[name].pop(0)
        elif name not in self.contents:
            status = 404
        elif wanted and self.ranges:
            start, total = int(wanted.removeprefix("bytes=").removesuffix("-")), len(body)
            if start >= total:
                body, status, headers = b"", 416, {"Content-Range": f"bytes */{total}"}
            else:
                body, status = body[start:], 206
                headers = {"Content-Range": f"bytes {start}-{total - 1}/{total}"}
        sent = body[: self.cut[name].pop(0)] if self.cut.get(name) else body
        self.log.append((name, wanted, status, len(sent)))
        self.gate.wait(timeout=5)
        request.send_response(status)
        for key, value in headers.items():
            request.send_header(key, value)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(sent)

    def close(self) -> None:
        """Stops the server."""
        self.http.shutdown()
        self.http.server_close()
