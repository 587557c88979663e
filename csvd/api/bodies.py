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


class Keys(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of PATCH requests, and of POST /v1/targets/TARGET/luns: keys of the configuration."""

    keys: dict[str, Any] = {}


class Named(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of POST /v1/targets and POST /v1/targets/TARGET/acl: an iSCSI name, and keys of the configuration."""

    name: str
    keys: dict[str, Any] = {}


class Resize(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of POST /v1/targets/TARGET/luns/LUN/resize; without a size, the one that the disk was given by others."""

    size_bytes: int | None = None
    force: bool = False


class CreateToken(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of POST /v1/tokens."""

    life_s: int | None = None
    is_witness: bool = False


class SetNode(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of PATCH /v1/nodes/{node}."""

    name: str | None = None
    is_draining: bool | None = None


class Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of requests whose path says it all."""


def body_of(request: Request, kind: type[T]) -> T:
    """The body as a struct. Raises BadRequest."""
    try:
        return msgspec.convert(dict(request.body), kind)
    except msgspec.ValidationError as error:
        raise BadRequest("the request's body is not right", where=request.path, why=str(error)) from error
