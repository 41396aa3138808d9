"""The destination: an HTTP server that keeps the JSON arrays it is sent, in memory. Not a part of the handler."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Endpoint:
    """Listens on a free port of 127.0.0.1."""

    LARGEST = 4_000_000

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.is_forbidden = False
        endpoint = self

        class Answers(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                body = self.rfile.read(length)
                self.send_response(endpoint.answer(body) if len(body) == length else 400)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:
                pass  # a client that is gone

        self.server = Server(("127.0.0.1", 0), Answers)
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self.thread.start()

    def answer(self, body: bytes) -> int:
        """The status; the rows are kept before it is sent."""
        if self.is_forbidden:
            return 403
        if len(body) > self.LARGEST:
            return 413
        rows = json.loads(body)
        if any(row["type"] == "poison" for row in rows):
            return 422
        self.rows += rows
        return 204

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()
