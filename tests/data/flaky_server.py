"""An HTTP server on 127.0.0.1 that fails as told: cuts, lies, ignores ranges, changes its files."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True, kw_only=True)
class Answer:
    """How one request for a file is answered."""

    body: bytes
    """The file as it is now."""
    etag: str | None = '"v1"'
    """Its ETag."""
    last_modified: str | None = None
    """Its date of change."""
    ranges: bool = True
    """Whether a `Range` is heeded."""
    checks_condition: bool = True
    """Whether `If-Range` is heeded."""
    cut: int | None = None
    """Bytes of the answer's body after which the connection ends."""
    stall: float = 0.0
    """Seconds of silence before the body."""
    status: int | None = None
    """Answer with nothing but this status."""
    serves_from: int | None = None
    """Answer a `Range` with the bytes from here on, whatever was asked."""

    def but(self, **changes: object) -> Answer:
        """The same answer with some things changed."""
        return replace(self, **changes)  # type: ignore[arg-type]


@dataclass
class FlakyServer:
    """Answers for each path, the last of them for ever; and the requests that came."""

    address: str = ""
    answers: dict[str, list[Answer]] = field(default_factory=dict)
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    """Path and `Range` header of each request."""

    def next_answer(self, path: str) -> Answer | None:
        """The answer that is due for a path."""
        due = self.answers.get(path)
        if not due:
            return None
        return due.pop(0) if len(due) > 1 else due[0]


class QuietServer(ThreadingHTTPServer):
    """A server that does not mind clients who hang up."""

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing on stderr: the client's side is what is tested."""


@contextmanager
def flaky_server() -> Iterator[FlakyServer]:
    """Serve on a free port until the block ends."""
    state = FlakyServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            state.requests.append((self.path, asked))
            answer = state.next_answer(self.path)
            if answer is None or answer.status is not None:
                self.send_response(404 if answer is None else answer.status or 0)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            begin = int(match[1]) if asked and (match := re.fullmatch(r"bytes=(\d+)-", asked)) else 0
            condition = self.headers.get("If-Range")
            same = not answer.checks_condition or condition in (answer.etag, answer.last_modified)
            partial = bool(asked) and answer.ranges and same
            begin = (answer.serves_from or begin) if partial else 0
            size = len(answer.body)
            if partial and begin >= size:
                self.send_response(416)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206 if partial else 200)
            if partial:
                self.send_header("Content-Range", f"bytes {begin}-{size - 1}/{size}")
            for name, value in (("ETag", answer.etag), ("Last-Modified", answer.last_modified)):
                if value is not None:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(size - begin))
            self.end_headers()
            self.wfile.flush()
            time.sleep(answer.stall)
            body = answer.body[begin:]
            self.wfile.write(body if answer.cut is None else body[: answer.cut])
            self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing on stderr."""

    with QuietServer(("127.0.0.1", 0), Handler) as server:
        state.address = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield state
        finally:
            server.shutdown()
            thread.join()
