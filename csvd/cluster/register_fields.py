"""What the tables of the register have in common: operations, the checks of their fields, refusals. PURE."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from csvd.cluster.names import NODE_NAME_RULE, is_node_name

MAXIMUM_NUMBER: Final = 2**62

_FINGERPRINT: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_ADDRESS: Final = re.compile(r"(?:\[[0-9A-Fa-f:.%a-z]{2,64}\]|[0-9A-Za-z.-]{1,253}):[0-9]{1,5}", re.ASCII)

Answer = dict[str, Any]
Check = Callable[[object], Any]


class Refusal(Exception):
    """The reason why a command is refused."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One row of a table of operations.

    Attributes:
        fields: the check of each field that a command has to have.
        handler: carries the command out; gets the fields by name, answers, or raises a Refusal having changed nothing.
        optional: the check of each field that it may have.
        changes: whether a command that is not refused makes a new revision.
    """

    fields: Mapping[str, Check]
    handler: Callable[..., Answer]
    optional: Mapping[str, Check] = field(default_factory=dict)
    changes: bool = True


class Table(Protocol):
    """One subject of the register: its part of the state, and the operations on it.

    `name` is the name of its part of a snapshot.
    """

    name: str

    def operations(self) -> Mapping[str, Operation]:
        """Its operations by name; no two tables have one of the same name."""

    def snapshot(self) -> Any:
        """Its part of the state as a JSON-able value; equal states give equal values."""

    def restore(self, part: Any) -> None:
        """Become the state of a part; called once, on a fresh table.

        Raises:
            Refusal, KeyError, TypeError, ValueError: it is not one.
        """


def check_node(value: object) -> str:
    """A name of a node."""
    if not is_node_name(value):
        raise Refusal(f"the name of a node is {NODE_NAME_RULE}")
    return str(value)


def check_number(value: object) -> int:
    """A number of an epoch, of a revision, or of seconds since 1970."""
    if type(value) is not int or not 0 <= value <= MAXIMUM_NUMBER:
        raise Refusal("an epoch is a whole number from 0 to 2**62")
    return value


def check_flag(value: object) -> bool:
    """True or False."""
    if type(value) is not bool:
        raise Refusal("a flag is true or false")
    return value


def check_fingerprint(value: object) -> str:
    """A SHA-256 in hexadecimal digits."""
    if not isinstance(value, str) or _FINGERPRINT.fullmatch(value) is None:
        raise Refusal("a fingerprint is 64 of 0-9 and a-f")
    return value


def check_address(value: object) -> str:
    """`host:port` or `[host]:port`; empty for a node that listens nowhere."""
    if value == "":
        return ""
    if not isinstance(value, str) or _ADDRESS.fullmatch(value) is None or not 0 < int(value.rpartition(":")[2]) < 2**16:
        raise Refusal("an address is host:port, or [host]:port of version 6")
    return value


def check_mapping(value: object) -> Mapping[str, Any]:
    """An object."""
    if not isinstance(value, Mapping):
        raise Refusal("an object is expected")
    return value


def check_list(value: object, *, at_most: int) -> list[Any]:
    """A list of so many items at most."""
    if not isinstance(value, list | tuple) or len(value) > at_most:
        raise Refusal(f"a list of at most {at_most} is expected")
    return list(value)
