"""The exports of the cluster at its coordinator: one place where they are changed, kept, and told to all nodes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeAlias

import msgspec
from twisted.internet.defer import Deferred, DeferredLock
from twisted.logger import Logger
from twisted.python.failure import Failure

from csvd.api.errors import BadRequest, Refused, Unavailable
from csvd.cluster.coordination.faces import Office, OfficeOver
from csvd.cluster.data_keys import KEY_BYTES
from csvd.errors import CsvdError
from csvd.exports.catalogue import AnyEdit, RemoveTarget, TargetRecord, check_bounds, edited
from csvd.exports.cluster_sections import resealed, section_of
from csvd.exports.node_ports import Groups, Member, checked_groups, table_of
from csvd.exports.sealing import Sealing

Json = dict[str, Any]

NAME: Final = "exports"
_REVISION: Final = f"{NAME}/revision"
_TARGET: Final = f"{NAME}/target/"
_PORTS: Final = f"{NAME}/ports/"
_KEY: Final = f"{NAME}/key"
"""The id of the key by which all secrets are sealed; none before the first rotation."""
_SERIAL_BYTES: Final = 8

Members: TypeAlias = Callable[[], Mapping[str, Member]]
"""Gives the members of the cluster by id, as the register has them now."""


class ChangeAsked(msgspec.Struct, forbid_unknown_fields=True):
    """Of the ask "change".

    Args:
        force: a target goes with its sessions.
        only_check: change nothing, and say whether it could be.
    """

    edit: AnyEdit
    force: bool = False
    only_check: bool = False


class JoinAsked(msgspec.Struct, forbid_unknown_fields=True):
    """Of the ask "join": a node begins to serve, or has other portals than before.

    Args:
        revision: what it has; -1 for nothing.
    """

    groups: Any
    revision: int


class ReportAsked(msgspec.Struct, forbid_unknown_fields=True):
    """Of the ask "report": what a node serves, and what it can not serve, by target and LUN, and why."""

    revision: int
    troubles: dict[str, str]


class ResizedAsked(msgspec.Struct, forbid_unknown_fields=True):
    """Of the ask "resized": the disk of a logical unit has grown."""

    target: str
    number: int


class RotateAsked(msgspec.Struct, forbid_unknown_fields=True):
    """Of the ask "rotate": have a new key to seal secrets with.

    Args:
        without: a node that was evicted and must not get it; empty for none.
    """

    without: str = ""


class ExportsService:
    """The `Service` "exports" of the system disk.

    Args:
        entropy: gives unpredictable bytes, for serial numbers.
        tell: told what was changed: a word, a sentence, the target.
    """

    name = NAME
    _log = Logger()

    def __init__(
        self,
        sealing: Sealing,
        members: Members,
        entropy: Callable[[int], bytes],
        tell: Callable[[str, str, str], None],
    ) -> None:
        self._sealing = sealing
        self._members = members
        self._entropy = entropy
        self._tell = tell
        self._term: _Term | None = None
        self._leaving: list[Deferred[None]] = []
        """Who waits for a node to be gone; fired whenever one may be."""

    async def begin(self, office: Office) -> None:
        """See `Service`: what was kept is pushed to all when this returns."""
        self._term = term = _Term(office, self._members)
        await term.push_all()

    def end(self) -> None:
        """See `Service`."""
        self._term = None
        self._someone_left()

    def node_come(self, node: str) -> None:
        """See `Service`: a node that comes is told everything, and the others are told of it."""
        term = self._term
        if term is not None:
            self._go(term.push_everything(node))
            self._go(term.push_ports())

    def node_gone(self, node: str) -> None:
        """See `Service`: its ports are unavailable from now on."""
        term = self._term
        if term is not None:
            term.reports.pop(node, None)
            self._go(term.push_ports())
        self._someone_left()

    def members_changed(self) -> None:
        """The register has other members, or one of them is drained."""
        term = self._term
        if term is not None and term.is_pushed and term.ports() != term.told_ports:
            self._go(term.push_ports())
        self._someone_left()

    def _someone_left(self) -> None:
        leaving, self._leaving = self._leaving, []
        for one in leaving:
            if not one.called:
                one.callback(None)

    def _go(self, pushing: Awaitable[None]) -> None:
        async def go() -> None:
            await pushing

        def failed(failure: Failure) -> None:
            # The next coordinator tells all nodes everything when it begins.
            if not isinstance(failure.value, OfficeOver):
                self._log.failure("the nodes could not be told of what the cluster exports", failure)

        Deferred.fromCoroutine(go()).addErrback(failed)

    async def asked(self, node: str, method: str, params: Json) -> Json:
        """See `Service`."""
        term = self._term
        if term is None:
            raise OfficeOver("the office has ended")
        if method == "change":
            return await self._change(term, node, _params(params, ChangeAsked))
        if method == "join":
            return await term.join(node, _params(params, JoinAsked))
        if method == "report":
            asked = _params(params, ReportAsked)
            term.note(node, asked.revision, asked.troubles)
            return {}
        if method == "status":
            return {"revision": term.revision, "nodes": dict(term.reports)}
        if method == "resized":
            resized = _params(params, ResizedAsked)
            await term.office.push(NAME, "resized", msgspec.to_builtins(resized), excluding=(node,))
            return {}
        if method == "rotate":
            return await self._rotate(term, node, _params(params, RotateAsked))
        raise BadRequest(f"the exports have no {method[:60]!r}", where=node)

    async def _change(self, term: _Term, node: str, asked: ChangeAsked) -> Json:
        """Carry an edit out: checked, kept, and then pushed to all nodes."""
        await term.turn.acquire()
        try:
            name, record, sentence = edited(term.targets, asked.edit, self._make_serial)
            targets = {**term.targets}
            if record is None:
                del targets[name]
            else:
                section_of(name, record, self._sealing)
                targets[name] = record
                if term.key:
                    # The node that was asked may not know of a rotation yet.
                    targets[name] = record = resealed(name, record, self._sealing, term.key)
            check_bounds(targets)
            if isinstance(asked.edit, RemoveTarget) and not asked.force:
                await _refuse_sessions(term, name)
            answer = {"target": name, "revision": term.revision + 1, "number": _number_added(term, name, record)}
            if asked.only_check:
                return answer
            kept = None if record is None else msgspec.to_builtins(record)
            await term.office.keep({_REVISION: term.revision + 1, _TARGET + name: kept}, answer=answer)
            base, term.revision, term.targets = term.revision, term.revision + 1, targets
            change = {"base": base, "revision": term.revision, "target": name, "record": kept}
            # Begun before the next change can be, so that all nodes hear of both in their order.
            telling = Deferred.fromCoroutine(term.push_change(change))
        finally:
            term.turn.release()
        self._tell("change", f"{sentence}, for the cluster, by {node}", name)
        await telling
        return answer

    async def _rotate(self, term: _Term, node: str, asked: RotateAsked) -> Json:
        """Seal all secrets with a new key that every node with a session has by then.

        The key itself goes from node to node alone; what is pushed and kept is its id. Whatever breaks on the way
        leaves a key that is not used, or nodes that ask for the one that is.
        """
        keys = self._sealing.keys
        if keys is None:
            raise Refused("this cluster has no key to seal secrets with", where=node)
        await self._until_gone(term, asked.without)
        await term.turn.acquire()
        try:
            # Keys of rotations that were broken off are not used by anything.
            await term.office.push(NAME, "keys", {"keys": [term.key or keys.current]})
            key_id = await keys.add(self._entropy(KEY_BYTES))
            answers = await term.office.push(
                NAME, "key", {"key": key_id, "by": term.office.node, "without": asked.without}
            )
            missing = [name for name in term.office.nodes if answers.get(name, {}).get("key") != key_id]
            if missing:
                raise Unavailable(f"{missing[0]} has not taken the new key; the old one stays", hint="csvd key rotate")
            targets = {name: resealed(name, record, self._sealing, key_id) for name, record in term.targets.items()}
            check_bounds(targets)
            answer = {"key": key_id}
            changed = {_TARGET + name: msgspec.to_builtins(record) for name, record in targets.items()}
            await term.office.keep({_KEY: key_id, _REVISION: term.revision + 1, **changed}, answer=answer)
            term.key, term.revision, term.targets = key_id, term.revision + 1, targets
            await term.push_all()
            await term.office.push(NAME, "keys", {"keys": [key_id]})
        finally:
            term.turn.release()
        self._tell("key", f"secrets are sealed with the new key {key_id}, asked for by {node}", "")
        return answer

    async def _until_gone(self, term: _Term, node: str) -> None:
        """Wait until a node is no member, and has no session, as this node sees it."""
        while node and (node in self._members() or node in term.office.nodes):
            waiting: Deferred[None] = Deferred()
            self._leaving.append(waiting)
            await waiting
            if self._term is not term:
                raise OfficeOver("the office has ended")

    def _make_serial(self) -> str:
        return self._entropy(_SERIAL_BYTES).hex()


def _number_added(term: _Term, name: str, record: TargetRecord | None) -> int | None:
    """The LUN that a change has added."""
    before = term.targets.get(name)
    if record is None or before is None:
        return None
    added = record.luns.keys() - before.luns.keys()
    return int(added.pop()) if added else None


async def _refuse_sessions(term: _Term, name: str) -> None:
    """Refuse to remove a target that has sessions, at any node."""
    answers = await term.office.push(NAME, "sessions", {"target": name})
    count = sum(int(answer.get("sessions", 0)) for answer in answers.values())
    if count:
        raise Refused(f"the target has {count} sessions", where=name, hint="--force ends them")


def _params(params: Json, kind: type[Any]) -> Any:
    try:
        return msgspec.convert(params, kind)
    except msgspec.ValidationError as error:
        raise BadRequest("what was asked of the exports is malformed", why=str(error)) from error


class _Term:
    """What the exports are in one office.

    Attributes:
        turn: whose turn it is to change them.
        revision: the number of the latest change that is durable; it only grows, over offices, too.
        reports: what each node serves, by its id, as it said last.
        told_ports: what all nodes were told of ports last.
        key: the id of the key by which secrets are sealed; empty before the first rotation.
        is_pushed: whether the nodes were told everything that was kept by the offices before.
    """

    MAX_REPORT_BYTES = 24 << 10
    """Of one node; those of all go into one answer."""

    def __init__(self, office: Office, members: Members) -> None:
        self.office = office
        self._members = members
        self.turn = DeferredLock()
        self.reports: dict[str, Json] = {}
        self.told_ports: Json = {}
        self.is_pushed = False
        records = office.records
        self.key = str(records.get(_KEY, ""))
        try:
            self.revision = msgspec.convert(records.get(_REVISION, 0), int)
            self.targets: Mapping[str, TargetRecord] = _convert_all(records, _TARGET, TargetRecord)
            self._groups: dict[str, Groups] = _convert_all(records, _PORTS, Groups)
        except msgspec.ValidationError as error:
            raise CsvdError(
                "what the disk has of the exports makes no sense", where=office.disk, why=str(error)
            ) from error

    # Ports

    def ports(self) -> Json:
        """Where all nodes are reached, and how they are, as of now."""
        return table_of(self._groups, self._members(), self.office.nodes)

    async def join(self, node: str, asked: JoinAsked) -> Json:
        """A node says where it is reached; it is told what it does not know yet."""
        member = self._members().get(node)
        if member is None:
            raise Refused("this node is no member of the cluster", where=node)
        groups = checked_groups(asked.groups, member.number, node)
        members = self._members()
        gone = {f"{_PORTS}{name}": None for name in self._groups if name not in members}
        if gone or self._groups.get(node) != groups:
            await self.office.keep({**gone, f"{_PORTS}{node}": {str(tag): groups[tag] for tag in groups}})
            self._groups = {name: said for name, said in self._groups.items() if name in members} | {node: groups}
        await self.push_ports()
        return self._everything() if asked.revision != self.revision else {"revision": self.revision}

    async def push_ports(self) -> None:
        """Tell all nodes of all ports."""
        self.told_ports = self.ports()
        await self.office.push(NAME, "ports", {"ports": self.told_ports})

    # Targets

    def _everything(self) -> Json:
        return {
            "revision": self.revision,
            "targets": msgspec.to_builtins(self.targets),
            "ports": self.ports(),
            "key": self.key,
        }

    async def push_all(self) -> None:
        """Tell all nodes everything."""
        self.told_ports = self.ports()
        answers = await self.office.push(NAME, "all", self._everything())
        self._note(answers)
        self.is_pushed = True

    async def push_everything(self, node: str) -> None:
        """Tell one node everything."""
        self._note(await self.office.push(NAME, "all", self._everything(), to=node))

    async def push_change(self, change: Json) -> None:
        """Tell all nodes of one change; a node that does not know what was before is told everything."""
        answers = await self.office.push(NAME, "change", change)
        self._note(answers)
        for node, answer in answers.items():
            if answer.get("revision", 0) < change["revision"]:
                await self.push_everything(node)

    def _note(self, answers: Mapping[str, Json]) -> None:
        for node, answer in answers.items():
            if isinstance(answer.get("troubles"), dict):
                self.note(node, answer.get("revision", 0), answer["troubles"])

    def note(self, node: str, revision: int, troubles: Json) -> None:
        """Note what a node can not serve.

        Raises:
            BadRequest: it says more than fits.
        """
        report = {"revision": revision, "troubles": troubles}
        if len(msgspec.json.encode(report)) > self.MAX_REPORT_BYTES:
            raise BadRequest("the report is too long", where=node)
        self.reports[node] = report


def _convert_all(records: Mapping[str, Any], prefix: str, kind: Any) -> dict[str, Any]:
    return {
        key.removeprefix(prefix): msgspec.convert(value, kind, strict=False)
        for key, value in records.items()
        if key.startswith(prefix)
    }
