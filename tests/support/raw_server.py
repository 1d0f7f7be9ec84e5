"""A server on this machine that sends whatever bytes a test wants, to whoever connects."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable


class RawServer:
    """Calls `answer(connection, request)` for each connection, in a thread of its own, and closes the connection.

    request: the bytes of the head of the request, or none if `listens` is not set. requests: those of all so far.
    context: for TLS.
    """

    def __init__(
        self,
        answer: Callable[[socket.socket, bytes], None],
        context: ssl.SSLContext | None = None,
        listens: bool = True,
    ):
        self.requests: list[bytes] = []
        self.ended = threading.Event()
        self.answer, self.context, self.listens = answer, context, listens
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.place = f"127.0.0.1:{self.socket.getsockname()[1]}"
        self.address = f"{'http' if context is None else 'https'}://{self.place}/"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.socket.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, ssl.SSLError), connection:
            if self.context is not None:
                connection = self.context.wrap_socket(connection, server_side=True)
            request = b""
            while self.listens and b"\r\n\r\n" not in request and (more := connection.recv(4096)):
                request += more
            self.requests.append(request)
            self.answer(connection, request)
            connection.shutdown(socket.SHUT_WR)
            connection.recv(1)  # Closing with unread bytes would reset the connection.

    def trickle(self, connection: socket.socket, content: bytes, pause: float = 0.02) -> None:
        """Sends a text byte by byte, over and over, until the other side or the test has ended."""
        while not self.ended.is_set():
            for number in content:
                connection.sendall(bytes([number]))
                if self.ended.wait(pause):
                    return

    def close(self) -> None:
        self.ended.set()
        self.socket.close()
