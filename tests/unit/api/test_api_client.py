"""The client: what it sends, and which error it makes of which answer."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from csvd.api import client as client_module
from csvd.api.client import (
    AnswerBad,
    AnswerFault,
    AnswerNotFound,
    AnswerRefused,
    AnswerUnavailable,
    ClientError,
    ControlClient,
    NoAnswer,
    NoDaemon,
)
from tests.unit.api.fake_daemon import FakeDaemon, error


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(tmp_path / "control.sock") as fake:
        yield fake


@pytest.fixture
def client(daemon: FakeDaemon) -> ControlClient:
    return ControlClient(daemon.path, timeout_s=5)


@pytest.mark.parametrize(
    ("call", "asked", "body", "answer", "gives"),
    [
        (lambda c: c.status(), "GET /v1/status", None, {"a": 1}, {"a": 1}),
        (lambda c: c.status(detail=True), "GET /v1/status?detail=members", None, {}, {}),
        (lambda c: c.routes(), "GET /v1", None, {"routes": [{}]}, [{}]),
        (lambda c: c.sessions(), "GET /v1/sessions", None, {"sessions": []}, []),
        (lambda c: c.events(7), "GET /v1/events?after=7", None, {"last": 7}, {"last": 7}),
        (lambda c: c.guests(), "GET /v1/guests", None, {"guests": [{"name": "g"}]}, [{"name": "g"}]),
        (lambda c: c.guest("g"), "GET /v1/guests/g", None, {}, {}),
        (lambda c: c.guest("a/b c"), "GET /v1/guests/a%2Fb%20c", None, {}, {}),
        (lambda c: c.create_guest("g", {"m": 1}), "POST /v1/guests", {"name": "g", "spec": {"m": 1}}, {}, {}),
        (
            lambda c: c.create_guest("g", {}, node="n"),
            "POST /v1/guests",
            {"name": "g", "spec": {}, "node": "n"},
            {},
            {},
        ),
        (lambda c: c.remove_guest("g"), "DELETE /v1/guests/g", None, {}, {}),
        (lambda c: c.start_guest("g"), "POST /v1/guests/g/start", None, {}, {}),
        (lambda c: c.stop_guest("g"), "POST /v1/guests/g/stop", None, {}, {}),
        (lambda c: c.pause_guest("g"), "POST /v1/guests/g/pause", None, {}, {}),
        (lambda c: c.resume_guest("g"), "POST /v1/guests/g/resume", None, {}, {}),
        (lambda c: c.verify_guest("g"), "GET /v1/guests/g/verify", None, {}, {}),
        (lambda c: c.migrate("g", "n2"), "POST /v1/guests/g/migrations", {"to": "n2"}, {}, {}),
        (lambda c: c.migration("g"), "GET /v1/guests/g/migration", None, {}, {}),
        (lambda c: c.cancel_migration("g"), "DELETE /v1/guests/g/migration", None, {}, {}),
    ],
)
def test_each_method_asks_its_route(
    daemon: FakeDaemon,
    client: ControlClient,
    call: Callable[[Any], Any],
    asked: str,
    body: Any,
    answer: Any,
    gives: Any,
) -> None:
    daemon.answers[asked] = (200, answer)
    assert call(client) == gives
    assert daemon.asked == [(asked, body)]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, AnswerBad),
        (404, AnswerNotFound),
        (405, AnswerBad),
        (409, AnswerRefused),
        (413, AnswerBad),
        (500, AnswerFault),
        (503, AnswerUnavailable),
    ],
)
def test_an_error_of_the_daemon_is_an_error_of_its_kind(
    daemon: FakeDaemon, client: ControlClient, status: int, kind: type[ClientError]
) -> None:
    daemon.answers["GET /v1/status"] = (status, error("no", where="here", why="because", hint="try", kind="GuestBusy"))
    with pytest.raises(kind, match=r"^here: no: because \(try\)$") as caught:
        client.status()
    assert (caught.value.kind, caught.value.status) == ("GuestBusy", status)


@pytest.mark.parametrize(
    ("status", "body", "why"),
    [
        (200, b"not json", "no JSON"),
        (200, b"[" * 100_000, "no JSON"),
        (200, b"[1]", "no JSON object"),
        (409, b"{}", "no error"),
        (409, b'{"error": 3}', "no error"),
        (0, b"SSH-2.0-x\r\n", "SSH-2.0"),
        (0, b"", "closed"),
    ],
)
def test_an_answer_that_is_none_leaves_the_outcome_unknown(
    daemon: FakeDaemon, client: ControlClient, status: int, body: bytes, why: str
) -> None:
    daemon.answers["GET /v1/status"] = (status, body)
    with pytest.raises(NoAnswer, match="the outcome is not known") as caught:
        client.status()
    assert why in caught.value.why


def test_an_answer_of_unbounded_length_is_not_read(
    daemon: FakeDaemon, client: ControlClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "MAX_ANSWER_BYTES", 100)
    daemon.answers["GET /v1/status"] = (200, {"x": "y" * 200})
    with pytest.raises(NoAnswer, match="the answer has more than 100 bytes"):
        client.status()


def test_nobody_there_is_told_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NoDaemon, match=r"no daemon answers: No such file or directory.*start one with csvd run"):
        ControlClient(tmp_path / "none").status()
    path = tmp_path / "stale"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with pytest.raises(NoDaemon, match=r"no daemon answers: Connection refused.*start one with csvd run"):
        ControlClient(path).status()


def test_a_path_too_long_for_a_socket_is_an_error_and_not_a_crash(tmp_path: Path) -> None:
    with pytest.raises(NoDaemon, match="too long"):
        ControlClient(tmp_path / ("x" * 200)).status()


def test_a_daemon_that_does_not_answer_in_time_leaves_the_outcome_unknown(tmp_path: Path) -> None:
    path = tmp_path / "deaf"
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(path))
        deaf.listen()
        with pytest.raises(NoAnswer, match=r"GET /v1/status took longer than 0\.05 s"):
            ControlClient(path, timeout_s=0.05).status()
