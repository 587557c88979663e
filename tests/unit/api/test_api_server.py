"""The HTTP face: requests as bytes, bounded; the socket and who may have left it."""

from __future__ import annotations

import json
import os
import socket
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from csvd.api import server
from csvd.api.routes import Answer, Request, Route, Router
from csvd.api.server import MAX_BODY_BYTES, MAX_CONNECTIONS, ControlServer, remove_stale_socket
from csvd.errors import ConfigError


async def echo(request: Request) -> Answer:
    return Answer(200, {"path": request.path, "query": dict(request.query), "body": dict(request.body)})


async def unwritable(request: Request) -> Answer:
    return Answer(200, {"x": object()})


def site(tmp_path: Path = Path("/nowhere")) -> Any:
    routes = [
        Route("POST", "/v1/echo", echo, "Echo.", query=("a", "b")),
        Route("GET", "/v1/unwritable", unwritable, "It fails."),
    ]
    control = ControlServer(Clock(), Router(routes), tmp_path / "control.sock")
    return control._site


def connect(factory: Any) -> tuple[Any, Any]:
    protocol = factory.buildProtocol(None)
    transport: Any = StringTransport()  # type: ignore[no-untyped-call]
    protocol.makeConnection(transport)
    return protocol, transport


def lost() -> Any:
    return Failure(ConnectionDone())  # type: ignore[no-untyped-call]


def exchange(data: bytes) -> tuple[int, dict[str, str], Any]:
    protocol, transport = connect(site())
    protocol.dataReceived(data)
    return parse(transport.value())


def parse(data: bytes) -> tuple[int, dict[str, str], Any]:
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
    return int(lines[0].split()[1]), headers, json.loads(body) if body else None


def post(body: bytes, path: str = "/v1/echo", headers: str = "") -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body


def test_a_request_is_answered_with_json() -> None:
    status, headers, body = exchange(post(b'{"x": [1, "\xc3\xa4"]}', "/v1/echo?a=1&b=%20"))
    assert status == 200
    assert headers["content-type"] == "application/json"
    assert headers["cache-control"] == "no-store"
    assert body == {"path": "/v1/echo", "query": {"a": "1", "b": " "}, "body": {"x": [1, "ä"]}}


def test_several_requests_go_over_one_connection() -> None:
    protocol, transport = connect(site())
    protocol.dataReceived(post(b'{"n": 1}') + post(b'{"n": 2}'))
    answers = transport.value()
    assert answers.index(b'"n":1') < answers.index(b'"n":2')
    assert not transport.disconnecting


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"{", "is not JSON"),
        (b"\xff", "is not JSON"),
        (b"[" * 50_000, "is not JSON"),
        (b"[1]", "is not a JSON object"),
        (b"null", "is not a JSON object"),
        (b'"x"', "is not a JSON object"),
    ],
)
def test_a_body_that_is_no_json_object_is_refused(body: bytes, why: str) -> None:
    status, _, answer = exchange(post(body))
    assert status == 400
    assert why in answer["error"]["what"]


def test_no_body_is_an_empty_object() -> None:
    assert exchange(post(b""))[2]["body"] == {}
    assert exchange(post(b" \n"))[2]["body"] == {}


def test_a_form_is_no_json() -> None:
    status, _, _ = exchange(post(b"a=1", headers="Content-Type: application/x-www-form-urlencoded\r\n"))
    assert status == 400


def test_a_name_twice_in_the_query_is_refused() -> None:
    status, _, answer = exchange(post(b"", "/v1/echo?a=1&a=2"))
    assert status == 400
    assert "twice" in answer["error"]["what"]


def test_a_body_as_long_as_may_be_is_taken_and_one_byte_more_is_not() -> None:
    body = b'{"x":"' + b"y" * (MAX_BODY_BYTES - 8) + b'"}'
    assert exchange(post(body))[0] == 200
    status, _, answer = exchange(post(body + b" "))
    assert status == 413
    assert "at most 1048576 bytes" in answer["error"]["what"]


def test_a_long_body_is_not_kept_in_memory_or_in_a_file() -> None:
    protocol, _ = connect(site())
    protocol.dataReceived(b"POST /v1/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 30000000\r\n\r\n")
    for _ in range(20):
        protocol.dataReceived(b"x" * 1_000_000)
    content = protocol.requests[0].content
    assert isinstance(content, server._Body)
    assert len(content.getvalue()) <= MAX_BODY_BYTES
    assert content.received_bytes == 20_000_000


def test_a_body_that_never_ends_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_DISCARDED_BYTES", 1000)
    protocol, transport = connect(site())
    protocol.dataReceived(b"POST /v1/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n")
    assert transport.disconnecting
    protocol, transport = connect(site())
    chunked = b"POST /v1/echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    protocol.dataReceived(chunked + b"1F4\r\n" + b"x" * 500 + b"\r\n")
    assert not transport.disconnecting
    protocol.dataReceived(b"1F5\r\n" + b"x" * 501 + b"\r\n")
    assert transport.disconnecting


def test_no_more_connections_than_the_limit() -> None:
    factory = site()
    held = [connect(factory) for _ in range(MAX_CONNECTIONS)]
    assert factory.buildProtocol(None) is None
    held[0][0].connectionLost(lost())
    assert factory.buildProtocol(None) is not None


def test_an_idle_connection_is_closed() -> None:
    clock = Clock()
    control = ControlServer(clock, Router([]), Path("/nowhere"))
    _, transport = connect(control._site)
    clock.advance(server.IDLE_S + 1)
    assert transport.disconnecting or transport.disconnected


def test_a_client_that_is_gone_is_not_written_to() -> None:
    later: Deferred[None] = Deferred()

    async def slow(request: Request) -> Answer:
        await later
        return Answer(200, {})

    control = ControlServer(Clock(), Router([Route("GET", "/v1/slow", slow, "Slow.")]), Path("/nowhere"))
    protocol, transport = connect(control._site)
    protocol.dataReceived(b"GET /v1/slow HTTP/1.1\r\nHost: x\r\n\r\n")
    protocol.connectionLost(lost())
    later.callback(None)
    assert transport.value() == b""


def test_an_answer_that_is_no_json_is_a_fault_with_an_answer() -> None:
    status, _, answer = exchange(b"GET /v1/unwritable HTTP/1.1\r\nHost: x\r\n\r\n")
    assert status == 500
    assert "fault of its own" in answer["error"]["what"]


@given(st.binary(max_size=300))
def test_any_bytes_end_in_an_answer_a_closed_connection_or_waiting(data: bytes) -> None:
    protocol, transport = connect(site())
    protocol.dataReceived(data)
    assert len(transport.value()) < 10_000


@given(st.binary(max_size=200))
def test_any_body_is_answered(body: bytes) -> None:
    assert exchange(post(body))[0] in (200, 400)


# The socket


def test_a_socket_that_nobody_answers_at_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    remove_stale_socket(path)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    remove_stale_socket(path)
    assert not path.exists()


def test_a_socket_that_is_answered_at_stays(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as living:
        living.bind(str(path))
        living.listen()
        with pytest.raises(ConfigError, match="another daemon answers there"):
            remove_stale_socket(path)
    assert stat.S_ISSOCK(os.lstat(path).st_mode)


def test_a_file_in_its_place_stays(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(ConfigError, match="there is a file already"):
        remove_stale_socket(path)
    assert path.read_text() == "precious"
    link = tmp_path / "link"
    link.symlink_to(path)
    with pytest.raises(ConfigError, match="there is a file already"):
        remove_stale_socket(link)


def test_a_folder_that_can_not_be_looked_into_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="Not a directory"):
        remove_stale_socket(tmp_path / "file" / "s")
