"""Routes: what is found, and that everything that goes wrong is an answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import LogLevel, globalLogPublisher

from csvd.api.errors import Refused, status_of, to_json
from csvd.api.routes import Answer, Request, Route, Router
from csvd.cluster.errors import AuthenticationError, CommandRefused, OutcomeUnknown, PeerUnreachable, RemoteError
from csvd.errors import ConfigError, CsvdError
from csvd.migration.errors import MigrationRefused
from csvd.vm.errors import GuestBusy, GuestEnded, GuestNotHere, GuestTimeout


def now(awaitable: Awaitable[Any]) -> Any:
    """The result of what needs no waiting."""
    results: list[Any] = []
    Deferred.fromCoroutine(awaitable).addBoth(results.append)  # type: ignore[arg-type]
    return results[0]


async def echo(request: Request) -> Answer:
    return Answer(200, {"names": dict(request.names), "query": dict(request.query), "by": request.forwarded_by})


def failing(error: Exception) -> Callable[[Request], Awaitable[Answer]]:
    async def handler(request: Request) -> Answer:
        raise error

    return handler


ROUTER = Router(
    [
        Route("GET", "/v1/things/{name}", echo, "A thing.", query=("detail",)),
        Route("DELETE", "/v1/things/{name}", echo, "Remove it."),
        Route("GET", "/v1/things/{name}/parts/{part}", echo, "A part."),
        Route("POST", "/v1/refused", failing(Refused("no", where="x", why="y", hint="z")), "Refused."),
        Route("POST", "/v1/fault", failing(ZeroDivisionError("secret detail")), "A fault."),
    ]
)


def ask(method: str, path: str, **query: str) -> Answer:
    answer: Answer = now(ROUTER.dispatch(Request(method, path, query)))
    return answer


def what(answer: Answer) -> str:
    return str(answer.body["error"]["what"])


def test_names_in_the_path_are_found_and_unescaped() -> None:
    assert ask("GET", "/v1/things/a%2Fb%20c").body["names"] == {"name": "a/b c"}
    assert ask("GET", "/v1/things/x/parts/y").body["names"] == {"name": "x", "part": "y"}


@pytest.mark.parametrize("path", ["/", "", "/v1/", "/v2", "/v1/things", "/v1/things/", "/v1/things/a/b", "//v1"])
def test_an_unknown_path_is_not_found(path: str) -> None:
    answer = ask("GET", path)
    assert answer.status == 404
    assert answer.body["error"]["hint"] == "GET /v1 lists the routes"


def test_a_method_that_a_path_does_not_take_is_told_with_those_it_takes() -> None:
    answer = ask("PATCH", "/v1/things/a")
    assert answer.status == 405
    assert answer.body["error"]["hint"] == "it takes: GET, DELETE"


def test_a_name_in_the_query_that_a_route_does_not_know_is_refused() -> None:
    assert ask("GET", "/v1/things/a", detail="x").body["query"] == {"detail": "x"}
    answer = ask("GET", "/v1/things/a", detial="x")
    assert answer.status == 400
    assert what(answer) == "the query has no 'detial'"
    assert answer.body["error"]["hint"] == "known here: detail"


def test_the_root_lists_every_route_with_its_documentation() -> None:
    rows = ask("GET", "/v1").body["routes"]
    assert rows[0] == {"method": "GET", "path": "/v1", "query": [], "doc": "The routes of this API."}
    assert {(row["method"], row["path"]) for row in rows[1:]} == {
        ("GET", "/v1/things/{name}"),
        ("DELETE", "/v1/things/{name}"),
        ("GET", "/v1/things/{name}/parts/{part}"),
        ("POST", "/v1/refused"),
        ("POST", "/v1/fault"),
    }


def test_an_error_is_an_answer_with_its_four_parts() -> None:
    answer = ask("POST", "/v1/refused")
    assert answer.status == 409
    assert answer.body == {"error": {"kind": "Refused", "what": "no", "where": "x", "why": "y", "hint": "z"}}


def test_a_fault_is_logged_with_its_traceback_and_told_without() -> None:
    events: list[Any] = []
    observer: Any = events.append
    globalLogPublisher.addObserver(observer)
    try:
        answer = ask("POST", "/v1/fault")
    finally:
        globalLogPublisher.removeObserver(observer)
    assert answer.status == 500
    assert "secret detail" not in str(answer.body)
    logged = [event for event in events if event["log_level"] is LogLevel.critical]
    assert len(logged) == 1
    assert logged[0]["log_failure"].check(ZeroDivisionError)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ConfigError("x"), 400),
        (GuestNotHere("x"), 404),
        (GuestBusy("x"), 409),
        (GuestEnded("x"), 409),
        (GuestTimeout("x"), 503),
        (MigrationRefused("x"), 409),
        (CommandRefused("x"), 409),
        (OutcomeUnknown("x"), 503),
        (PeerUnreachable("x"), 503),
        (AuthenticationError("x"), 503),
        (RemoteError("x", kind="GuestBusy"), 409),
        (RemoteError("x", kind="ConfigError"), 400),
        (RemoteError("x", kind="SomethingNew"), 409),
        (RemoteError("x"), 409),
        (CsvdError("x"), 409),
    ],
)
def test_each_kind_of_error_has_its_status(error: CsvdError, status: int) -> None:
    assert status_of(error) == status


def test_an_error_of_another_node_keeps_its_kind() -> None:
    assert to_json(RemoteError("x", kind="GuestBusy"))["error"]["kind"] == "GuestBusy"
    assert to_json(RemoteError("x"))["error"]["kind"] == "RemoteError"
