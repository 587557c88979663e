"""The replicated register: who the coordinator is, and which node owns which guest. PURE.

Every node applies the same commands in the same order and gets the same state and the same answers. A command is a dict
with `op` and the fields of its operation; what it may not do is *refused*, with a reason, never raised: a refusal is
part of the replicated history like any other answer.

Ownership is compare-and-set on (owner, epoch): a command names the epoch that its sender believes in, and a change of
owner makes the epoch one higher. Epochs of the coordinator and of a guest's name only grow, also over removal and
creation of a guest of the same name.

A command may carry an idempotency key `node/incarnation/sequence`. The register remembers the last answers of each
node's latest incarnation, so that a command that is asked again is answered again and never carried out twice; a key
too old to be remembered is refused as `expired`, for then nobody can tell.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from csvd.cluster.errors import ClusterError
from csvd.cluster.json_values import JsonError, copy_json_object
from csvd.cluster.names import GUEST_NAME_RULE, NODE_NAME_RULE, is_guest_name, is_node_name

MAXIMUM_GUESTS: Final = 1024
MAXIMUM_SPEC_BYTES: Final = 8 * 1024
MAXIMUM_ALL_SPECS_BYTES: Final = 384 * 1024
MAXIMUM_SESSIONS: Final = 32
ANSWERS_REMEMBERED: Final = 32
MAXIMUM_NUMBER: Final = 2**62
SNAPSHOT_FORMAT: Final = 1

_KEY: Final = re.compile(r"([a-z0-9-]{1,63})/([0-9]{1,19})/([0-9]{1,19})", re.ASCII)
_STATE: Final = re.compile(r"[a-z][a-z-]{0,31}", re.ASCII)

Answer = dict[str, Any]


class RegisterError(ClusterError):
    """A snapshot of the register is not one."""


class _Refusal(Exception):
    """The reason why a command is refused."""


@dataclass(frozen=True, slots=True)
class CoordinatorRecord:
    """The node that is the coordinator, and the number of its term of office."""

    node: str
    epoch: int


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


@dataclass(frozen=True, slots=True, order=True)
class IdempotencyKey:
    """Names one command for ever: the node that sends it, the run of its daemon, and its number in that run."""

    node: str
    incarnation: int
    sequence: int

    def __str__(self) -> str:
        return f"{self.node}/{self.incarnation}/{self.sequence}"

    @classmethod
    def parse(cls, text: object) -> IdempotencyKey | None:
        """The key that a text spells, or None."""
        match = _KEY.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            return None
        key = cls(match[1], int(match[2]), int(match[3]))
        return key if max(key.incarnation, key.sequence) <= MAXIMUM_NUMBER else None


@dataclass(slots=True)
class _Session:
    """What is remembered of one node's latest incarnation."""

    incarnation: int
    forgotten: int = -1  # keys up to this sequence are no longer remembered
    answers: dict[int, Answer] = field(default_factory=dict)

    def remember(self, sequence: int, answer: Answer) -> None:
        self.answers[sequence] = answer
        if len(self.answers) > ANSWERS_REMEMBERED:
            self.forgotten = min(self.answers)
            del self.answers[self.forgotten]


class Register:
    """The state that the cluster replicates. Deterministic: no clock, no randomness, no order of hashing."""

    def __init__(self) -> None:
        self._coordinator: CoordinatorRecord | None = None
        self._guests: dict[str, GuestRecord] = {}
        self._spec_bytes: dict[str, int] = {}
        self._highest_removed_epoch = 0
        self._revision = 0
        self._sessions: dict[str, _Session] = {}

    @property
    def coordinator(self) -> CoordinatorRecord | None:
        """The coordinator, or None before the first claim."""
        return self._coordinator

    @property
    def epoch(self) -> int:
        """The coordinator's epoch; 0 before the first claim."""
        return self._coordinator.epoch if self._coordinator else 0

    @property
    def revision(self) -> int:
        """How many changes have been made; the same number means the same state."""
        return self._revision

    @property
    def guests(self) -> Mapping[str, GuestRecord]:
        """A copy of the table of guests by name, sorted."""
        return dict(sorted(self._guests.items()))

    def guest(self, name: str) -> GuestRecord | None:
        """The record of one guest, or None."""
        return self._guests.get(name)

    def apply(self, command: object, key: object = None) -> Answer:
        """Carry out one command; never raises.

        Args:
            command: a mapping with `op` and the fields of that operation (see OPERATIONS).
            key: the text of an IdempotencyKey, or None for a command that may be carried out again.

        Returns:
            `{"ok": True, "revision": …, …}`, or `{"ok": False, "reason": …}`, with `"expired": True` where the key is
            too old to tell whether the command was carried out.
        """
        if key is None:
            return self._execute(command)
        parsed = IdempotencyKey.parse(key)
        if parsed is None:
            return _refused("the idempotency key is not node/incarnation/sequence")
        session = self._sessions.get(parsed.node)
        if session is None:
            if len(self._sessions) >= MAXIMUM_SESSIONS:
                return _refused(f"{MAXIMUM_SESSIONS} nodes have sent commands already, the register holds no more")
            session = self._sessions[parsed.node] = _Session(parsed.incarnation)
        elif parsed.incarnation > session.incarnation:
            session = self._sessions[parsed.node] = _Session(parsed.incarnation)
        elif parsed.incarnation < session.incarnation:
            return _expired("the node that sent it has been restarted since")
        if parsed.sequence in session.answers:
            return session.answers[parsed.sequence]
        if parsed.sequence <= session.forgotten:
            return _expired("its answer is no longer remembered")
        answer = self._execute(command)
        session.remember(parsed.sequence, answer)
        return answer

    def _execute(self, command: object) -> Answer:
        try:
            operation, fields = _checked(command)
            return {"ok": True, **operation.handler(self, **fields), "revision": self._revision}
        except _Refusal as refusal:
            return _refused(str(refusal))

    def _claim_coordinator(self, node: str, expected_epoch: int) -> Answer:
        if expected_epoch != self.epoch:
            raise _Refusal(f"the coordinator's epoch is {self.epoch}, not {expected_epoch}")
        self._coordinator = CoordinatorRecord(node, self.epoch + 1)
        self._revision += 1
        return {"node": node, "epoch": self.epoch}

    def _guest_create(self, name: str, owner: str, spec: _Spec) -> Answer:
        if name in self._guests:
            raise _Refusal(f"guest {name} exists already, owned by {self._guests[name].owner}")
        if len(self._guests) >= MAXIMUM_GUESTS:
            raise _Refusal(f"the register holds {MAXIMUM_GUESTS} guests, no more")
        if sum(self._spec_bytes.values()) + spec.length_bytes > MAXIMUM_ALL_SPECS_BYTES:
            raise _Refusal(f"the specs of all guests together would be longer than {MAXIMUM_ALL_SPECS_BYTES} bytes")
        guest = GuestRecord(name, owner, self._highest_removed_epoch + 1, spec.value, "created")
        self._spec_bytes[name] = spec.length_bytes
        return self._stored(guest)

    def _guest_move(self, name: str, owner: str, epoch: int, new_owner: str) -> Answer:
        guest = self._owned(name, owner, epoch)
        return self._stored(replace(guest, owner=new_owner, epoch=epoch + 1))

    def _guest_state(self, name: str, owner: str, epoch: int, state: str) -> Answer:
        return self._stored(replace(self._owned(name, owner, epoch), state=state))

    def _guest_remove(self, name: str, owner: str, epoch: int) -> Answer:
        self._owned(name, owner, epoch)
        del self._guests[name], self._spec_bytes[name]
        # A later guest of the same name starts above, so that no epoch of a name is ever seen twice.
        self._highest_removed_epoch = max(self._highest_removed_epoch, epoch)
        self._revision += 1
        return {"name": name}

    def _guest_read(self, name: str) -> Answer:
        guest = self._guests.get(name)
        return {"guest": guest.to_json() if guest else None}

    def _owned(self, name: str, owner: str, epoch: int) -> GuestRecord:
        """The guest, when (owner, epoch) is what the register says; the compare of compare-and-set."""
        guest = self._guests.get(name)
        if guest is None:
            raise _Refusal(f"there is no guest {name}")
        if (guest.owner, guest.epoch) != (owner, epoch):
            raise _Refusal(
                f"guest {name} is owned by {guest.owner} with epoch {guest.epoch}, not by {owner} with epoch {epoch}"
            )
        return guest

    def _stored(self, guest: GuestRecord) -> Answer:
        self._guests[guest.name] = guest
        self._revision += 1
        return {"name": guest.name, "owner": guest.owner, "epoch": guest.epoch, "state": guest.state}

    def snapshot(self) -> dict[str, Any]:
        """The whole state as a JSON-able object; equal states give equal snapshots."""
        return {
            "format": SNAPSHOT_FORMAT,
            "revision": self._revision,
            "coordinator": {"node": self._coordinator.node, "epoch": self.epoch} if self._coordinator else None,
            "highest_removed_epoch": self._highest_removed_epoch,
            "guests": [guest.to_json() for _, guest in sorted(self._guests.items())],
            "sessions": [
                {
                    "node": node,
                    "incarnation": session.incarnation,
                    "forgotten": session.forgotten,
                    "answers": [[sequence, session.answers[sequence]] for sequence in sorted(session.answers)],
                }
                for node, session in sorted(self._sessions.items())
            ],
        }

    def restore(self, snapshot: object) -> None:
        """Become the state of a snapshot; on RegisterError nothing has changed.

        Raises:
            RegisterError: it is not a snapshot of this format.
        """
        restored = Register.from_snapshot(snapshot)
        for name, value in vars(restored).items():
            setattr(self, name, value)

    @classmethod
    def from_snapshot(cls, snapshot: object) -> Register:
        """A register with the state of a snapshot.

        Raises:
            RegisterError: it is not a snapshot of this format.
        """
        register = cls()
        try:
            register._fill(_mapping(snapshot))
        except (_Refusal, KeyError, TypeError, ValueError) as error:
            raise RegisterError("the snapshot of the register is damaged", why=str(error)) from error
        return register

    def _fill(self, snapshot: Mapping[str, Any]) -> None:
        if snapshot["format"] != SNAPSHOT_FORMAT:
            raise _Refusal(f"format {snapshot['format']!r} is not {SNAPSHOT_FORMAT}")
        self._revision = _number(snapshot["revision"])
        self._highest_removed_epoch = _number(snapshot["highest_removed_epoch"])
        if snapshot["coordinator"] is not None:
            record = _mapping(snapshot["coordinator"])
            self._coordinator = CoordinatorRecord(_node(record["node"]), _number(record["epoch"]))
        for item in snapshot["guests"]:
            record = _mapping(item)
            spec = _spec(record["spec"])
            name = _guest(record["name"])
            owner, epoch, state = _node(record["owner"]), _number(record["epoch"]), _state(record["state"])
            self._guests[name] = GuestRecord(name, owner, epoch, spec.value, state)
            self._spec_bytes[name] = spec.length_bytes
        for item in snapshot["sessions"]:
            record = _mapping(item)
            session = _Session(_number(record["incarnation"]), _number(record["forgotten"] + 1) - 1)
            for sequence, answer in record["answers"]:
                session.answers[_number(sequence)] = dict(_mapping(answer))
            self._sessions[_node(record["node"])] = session


@dataclass(frozen=True, slots=True)
class _Spec:
    value: dict[str, Any]
    length_bytes: int


@dataclass(frozen=True, slots=True)
class Operation:
    """One row of the table of commands: the check of each field, and the method that carries it out."""

    fields: Mapping[str, Callable[[object], Any]]
    handler: Callable[..., Answer]


def _node(value: object) -> str:
    if not is_node_name(value):
        raise _Refusal(f"the name of a node is {NODE_NAME_RULE}")
    return str(value)


def _guest(value: object) -> str:
    if not is_guest_name(value):
        raise _Refusal(f"the name of a guest is {GUEST_NAME_RULE}")
    return str(value)


def _number(value: object) -> int:
    if type(value) is not int or not 0 <= value <= MAXIMUM_NUMBER:
        raise _Refusal("an epoch is a whole number from 0 to 2**62")
    return value


def _state(value: object) -> str:
    if not isinstance(value, str) or _STATE.fullmatch(value) is None:
        raise _Refusal("a state is 1 to 32 of a-z and '-', a letter first")
    return value


def _spec(value: object) -> _Spec:
    try:
        return _Spec(*copy_json_object(value, maximum_bytes=MAXIMUM_SPEC_BYTES))
    except JsonError as error:
        raise _Refusal(f"the spec {error}") from error


def _mapping(value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _Refusal("an object is expected")
    return value


OPERATIONS: Final[Mapping[str, Operation]] = {
    "claim_coordinator": Operation({"node": _node, "expected_epoch": _number}, Register._claim_coordinator),
    "guest_create": Operation({"name": _guest, "owner": _node, "spec": _spec}, Register._guest_create),
    "guest_move": Operation(
        {"name": _guest, "owner": _node, "epoch": _number, "new_owner": _node}, Register._guest_move
    ),
    "guest_state": Operation(
        {"name": _guest, "owner": _node, "epoch": _number, "state": _state}, Register._guest_state
    ),
    "guest_remove": Operation({"name": _guest, "owner": _node, "epoch": _number}, Register._guest_remove),
    "guest_read": Operation({"name": _guest}, Register._guest_read),
}


def check_command(command: object) -> str | None:
    """Why a command is malformed, or None; the check that `apply` makes, to say no before anything is logged."""
    try:
        _checked(command)
    except _Refusal as refusal:
        return str(refusal)
    return None


def _checked(command: object) -> tuple[Operation, dict[str, Any]]:
    """The operation of a command and its checked fields."""
    fields = _mapping(command)
    name = fields.get("op")
    operation = OPERATIONS.get(name) if isinstance(name, str) else None
    if operation is None:
        raise _Refusal(f"op is one of {', '.join(OPERATIONS)}")
    given = set(fields) - {"op"}
    if given != set(operation.fields):
        raise _Refusal(f"{name} takes {', '.join(operation.fields)}")
    return operation, {field_name: check(fields[field_name]) for field_name, check in operation.fields.items()}


def _refused(reason: str) -> Answer:
    return {"ok": False, "reason": reason}


def _expired(reason: str) -> Answer:
    return {"ok": False, "reason": reason, "expired": True}
