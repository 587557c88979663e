"""The bodies that requests may have."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from csvd.api.errors import BadRequest
from csvd.api.routes import Request

T = TypeVar("T", bound=msgspec.Struct)


class CreateGuest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of POST /v1/guests."""

    name: str
    spec: dict[str, Any]
    node: str | None = None


class MigrateGuest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of POST /v1/guests/NAME/migrations."""

    to: str


class Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of requests whose path says it all."""


def body_of(request: Request, kind: type[T]) -> T:
    """The body as a struct. Raises BadRequest."""
    try:
        return msgspec.convert(dict(request.body), kind)
    except msgspec.ValidationError as error:
        raise BadRequest("the request's body is not right", where=request.path, why=str(error)) from error
