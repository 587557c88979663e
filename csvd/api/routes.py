"""The routes of the control API: a table, from which requests are dispatched and `GET /v1` is answered."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote

from twisted.logger import Logger

from csvd.api.errors import BadRequest, MethodNotAllowed, NotFound, status_of, to_json
from csvd.errors import CsvdError

Json = dict[str, Any]

FORCE: Final = "force"
"""Of the query of what people should mean twice."""

_PLACE: Final = re.compile(r"\{([a-z_]+)\}")


@dataclass(frozen=True, slots=True)
class Request:
    """One request, wherever it came from.

    Args:
        method: GET, POST, DELETE.
        path: with its escapes, without the query.
        query: the query's names, each once.
        body: the JSON object that came with it; empty where none did.
        forwarded_by: the node that another node forwarded it from; empty when a client of this node asks.
        names: what stands in the places of the route's pattern.
    """

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)
    forwarded_by: str = ""
    names: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """What is answered: a status and a JSON object, or a text of another type in its place."""

    status: int
    body: Json
    text: str | None = None
    content_type: str = "application/json"


Handler = Callable[[Request], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Route:
    """One row of the table.

    Args:
        method: the HTTP method.
        pattern: the path, with ``{name}`` for a place.
        handler: answers it.
        doc: what it does, in a sentence.
        query: the names that its query may have.
    """

    method: str
    pattern: str
    handler: Handler
    doc: str
    query: Sequence[str] = ()

    def match(self, path: str) -> dict[str, str] | None:
        """What stands in the places of the pattern, or None when the path is another one."""
        parts, wanted = path.split("/"), self.pattern.split("/")
        if len(parts) != len(wanted):
            return None
        names: dict[str, str] = {}
        for part, want in zip(parts, wanted, strict=True):
            place = _PLACE.fullmatch(want)
            if place is not None and part:
                names[place[1]] = unquote(part)
            elif part != want:
                return None
        return names


def is_forced(request: Request) -> bool:
    """Whether the query says ``force=true``. Raises BadRequest for any other word: nobody is to guess what it means."""
    force = request.query.get(FORCE, "")
    if force not in ("", "true"):
        raise BadRequest(f"force is {force[:20]!r}", where=request.path, hint="force=true, or nothing")
    return bool(force)


def fault(path: str) -> Answer:
    """The answer to a request at which this program failed."""
    told = CsvdError("csvd met a fault of its own", where=path, hint="the log of the daemon has more")
    return Answer(500, to_json(told))


class Router:
    """Dispatches requests, and turns whatever goes wrong into an answer."""

    _log = Logger()

    def __init__(self, routes: Sequence[Route]) -> None:
        self._routes = [Route("GET", "/v1", self._list, "The routes of this API."), *routes]

    async def _list(self, request: Request) -> Answer:
        rows = [
            {"method": route.method, "path": route.pattern, "query": list(route.query), "doc": route.doc}
            for route in self._routes
        ]
        return Answer(200, {"routes": rows})

    async def dispatch(self, request: Request) -> Answer:
        """Answer a request. Raises nothing: an error is an answer, a fault of this program one with status 500."""
        try:
            route, names = self._find(request.method, request.path)
            unknown = sorted(set(request.query) - set(route.query))
            if unknown:
                raise BadRequest(
                    f"the query has no {unknown[0][:60]!r}", where=request.path, hint=_hint("known here", route.query)
                )
            found = Request(request.method, request.path, request.query, request.body, request.forwarded_by, names)
            return await route.handler(found)
        except CsvdError as error:
            return Answer(status_of(error), to_json(error))
        except Exception:  # noqa: BLE001 - a fault of one handler must not end the others' daemon; it is logged
            self._log.failure("a fault of csvd at {method} {path}", method=request.method, path=request.path)
            return fault(request.path)

    def _find(self, method: str, path: str) -> tuple[Route, dict[str, str]]:
        allowed = []
        for route in self._routes:
            names = route.match(path)
            if names is None:
                continue
            if route.method == method:
                return route, names
            allowed.append(route.method)
        if allowed:
            raise MethodNotAllowed(f"it does not take {method[:20]}", where=path, hint=_hint("it takes", allowed))
        raise NotFound("there is no such path", where=path[:200], hint="GET /v1 lists the routes")


def _hint(label: str, words: Sequence[str]) -> str:
    return f"{label}: {', '.join(words)}" if words else ""
