"""A control socket with prepared answers, in a thread: for the client and for the commands."""

from __future__ import annotations

import json
import socketserver
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import TracebackType
from typing import Any

Answer = tuple[int, Any]


class FakeDaemon:
    """Answers ``METHOD path`` with what ``answers`` has; a list is answered one by one, its last for ever.

    A body of bytes is sent as it is, without any HTTP when the status is 0.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers: dict[str, Answer | list[Answer]] = {}
        self.asked: list[tuple[str, Any]] = []
        self._server = socketserver.ThreadingUnixStreamServer(str(path), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    def __enter__(self) -> FakeDaemon:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def bodies(self) -> list[Any]:
        """The bodies of what was asked, in order."""
        return [body for _, body in self.asked]

    def take(self, key: str, body: Any) -> Answer:
        """Note what was asked, and give the answer."""
        self.asked.append((key, body))
        answer: Answer | list[Answer] = self.answers.get(key, (404, error("there is no such path", where=key)))
        if not isinstance(answer, list):
            return answer
        return answer.pop(0) if len(answer) > 1 else answer[0]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        daemon = self

        class Handler(BaseHTTPRequestHandler):
            def address_string(self) -> str:
                return "test"

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
                pass

            def _answer(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                status, answer = daemon.take(f"{self.command} {self.path}", body)
                data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                if status:
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                self.wfile.write(data)
                self.close_connection = True

            do_GET = do_POST = do_PATCH = do_DELETE = _answer  # noqa: N815 - the base's names

        return Handler


def error(what: str, **fields: str) -> dict[str, Any]:
    """The body of an error."""
    return {"error": {"what": what, "where": "", "why": "", "hint": "", "kind": "CsvdError", **fields}}
