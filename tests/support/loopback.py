"""A web server on loopback for tests of downloads."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Server:
    """A web server that serves files by name and may cut answers, ignore ranges, or answer with a status."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cuts: list[int | None] = []
        """For each of the next answers, the number of bytes after which the connection is cut (None: never)."""
        self.ranges, self.status, self.asked = True, 200, list[str]()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(handler) -> None:
                self.answer(handler)

            def do_CONNECT(handler) -> None:
                handler.send_error(403, "Forbidden")

            def log_message(handler, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        data = self.files.get(handler.path.rpartition("/")[2], b"")
        ranged = handler.headers.get("Range", "")
        self.asked.append(ranged)
        if self.status != 200 or not data:
            handler.send_error(self.status if self.status != 200 else 404)
            return
        at = int(ranged.removeprefix("bytes=").rstrip("-")) if ranged and self.ranges else 0
        if ranged and self.ranges and at >= len(data):
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{len(data)}")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        handler.send_response(206 if ranged and self.ranges else 200)
        if ranged and self.ranges:
            handler.send_header("Content-Range", f"bytes {at}-{len(data) - 1}/{len(data)}")
        handler.send_header("Content-Length", str(len(data) - at))
        handler.end_headers()
        cut = self.cuts.pop(0) if self.cuts else None
        handler.wfile.write(data[at:] if cut is None else data[at : at + cut])
        handler.close_connection = True
