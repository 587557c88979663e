"""The guests of the register: which node owns which. PURE.

Ownership is compare-and-set on (owner, epoch): a command names the epoch that its sender believes in, and a change of
owner makes the epoch one higher. Epochs of a guest's name only grow, also over removal and creation of a guest of the
same name. Only a member becomes an owner; a guest of a member that was removed keeps its owner until it is moved.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from csvd.cluster.json_values import JsonError, copy_json_object
from csvd.cluster.names import GUEST_NAME_RULE, is_guest_name
from csvd.cluster.register_fields import Answer, Operation, Refusal, check_mapping, check_node, check_number
from csvd.cluster.register_members import Members

MAXIMUM_GUESTS: Final = 1024
MAXIMUM_SPEC_BYTES: Final = 8 * 1024
MAXIMUM_ALL_SPECS_BYTES: Final = 384 * 1024

_STATE: Final = re.compile(r"[a-z][a-z-]{0,31}", re.ASCII)


@dataclass(frozen=True, slots=True)
class GuestRecord:
    """A guest: its owner, the epoch of that ownership, what it is made of, and the state that its owner reports."""

    name: str
    owner: str
    epoch: int
    spec: dict[str, Any]
    state: str

    def to_json(self) -> dict[str, Any]:
        """The record as a JSON object with the names of its fields."""
        return {"name": self.name, "owner": self.owner, "epoch": self.epoch, "spec": self.spec, "state": self.state}


@dataclass(frozen=True, slots=True)
class _Spec:
    value: dict[str, Any]
    length_bytes: int


class Guests:
    """The table of guests."""

    name = "guests"

    def __init__(self, members: Members) -> None:
        self._members = members
        self._records: dict[str, GuestRecord] = {}
        self._spec_bytes: dict[str, int] = {}
        self._highest_removed_epoch = 0

    @property
    def records(self) -> Mapping[str, GuestRecord]:
        """The guests by name."""
        return self._records

    def operations(self) -> Mapping[str, Operation]:
        """The operations on guests."""
        owned = {"name": _guest, "owner": check_node, "epoch": check_number}
        return {
            "guest_create": Operation({"name": _guest, "owner": check_node, "spec": _spec}, self._create),
            "guest_move": Operation({**owned, "new_owner": check_node}, self._move),
            "guest_state": Operation({**owned, "state": _state}, self._state),
            "guest_remove": Operation(owned, self._remove),
            "guest_read": Operation({"name": _guest}, self._read, changes=False),
        }

    def snapshot(self) -> dict[str, Any]:
        """The guests, sorted by name."""
        return {
            "highest_removed_epoch": self._highest_removed_epoch,
            "records": [guest.to_json() for _, guest in sorted(self._records.items())],
        }

    def restore(self, part: Any) -> None:
        """Become the state of a snapshot's part."""
        self._highest_removed_epoch = check_number(check_mapping(part)["highest_removed_epoch"])
        for item in part["records"]:
            record = check_mapping(item)
            spec = _spec(record["spec"])
            name, owner = _guest(record["name"]), check_node(record["owner"])
            epoch, state = check_number(record["epoch"]), _state(record["state"])
            self._records[name] = GuestRecord(name, owner, epoch, spec.value, state)
            self._spec_bytes[name] = spec.length_bytes

    def _create(self, name: str, owner: str, spec: _Spec) -> Answer:
        self._members.require(owner)
        if name in self._records:
            raise Refusal(f"guest {name} exists already, owned by {self._records[name].owner}")
        if len(self._records) >= MAXIMUM_GUESTS:
            raise Refusal(f"the register holds {MAXIMUM_GUESTS} guests, no more")
        if sum(self._spec_bytes.values()) + spec.length_bytes > MAXIMUM_ALL_SPECS_BYTES:
            raise Refusal(f"the specs of all guests together would be longer than {MAXIMUM_ALL_SPECS_BYTES} bytes")
        guest = GuestRecord(name, owner, self._highest_removed_epoch + 1, spec.value, "created")
        self._spec_bytes[name] = spec.length_bytes
        return self._stored(guest)

    def _move(self, name: str, owner: str, epoch: int, new_owner: str) -> Answer:
        guest = self._owned(name, owner, epoch)
        self._members.require(new_owner)
        return self._stored(replace(guest, owner=new_owner, epoch=epoch + 1))

    def _state(self, name: str, owner: str, epoch: int, state: str) -> Answer:
        return self._stored(replace(self._owned(name, owner, epoch), state=state))

    def _remove(self, name: str, owner: str, epoch: int) -> Answer:
        self._owned(name, owner, epoch)
        del self._records[name], self._spec_bytes[name]
        # A later guest of the same name starts above, so that no epoch of a name is ever seen twice.
        self._highest_removed_epoch = max(self._highest_removed_epoch, epoch)
        return {"name": name}

    def _read(self, name: str) -> Answer:
        guest = self._records.get(name)
        return {"guest": guest.to_json() if guest else None}

    def _owned(self, name: str, owner: str, epoch: int) -> GuestRecord:
        """The guest, when (owner, epoch) is what the register says; the compare of compare-and-set."""
        guest = self._records.get(name)
        if guest is None:
            raise Refusal(f"there is no guest {name}")
        if (guest.owner, guest.epoch) != (owner, epoch):
            raise Refusal(
                f"guest {name} is owned by {guest.owner} with epoch {guest.epoch}, not by {owner} with epoch {epoch}"
            )
        return guest

    def _stored(self, guest: GuestRecord) -> Answer:
        self._records[guest.name] = guest
        return {"name": guest.name, "owner": guest.owner, "epoch": guest.epoch, "state": guest.state}


def _guest(value: object) -> str:
    if not is_guest_name(value):
        raise Refusal(f"the name of a guest is {GUEST_NAME_RULE}")
    return str(value)


def _state(value: object) -> str:
    if not isinstance(value, str) or _STATE.fullmatch(value) is None:
        raise Refusal("a state is 1 to 32 of a-z and '-', a letter first")
    return value


def _spec(value: object) -> _Spec:
    try:
        return _Spec(*copy_json_object(value, maximum_bytes=MAXIMUM_SPEC_BYTES))
    except JsonError as error:
        raise Refusal(f"the spec {error}") from error
