"""The exports of the cluster at one of its nodes: served as the coordinator says, as far as this node can."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, Final

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.logger import Logger
from twisted.python.failure import Failure

from csvd.api.errors import BadRequest, Refused
from csvd.cluster.coordination.faces import LIVE, RECLAIMING, Coordination, DiskSession
from csvd.cluster.reactor import Clock, DelayedCall
from csvd.config.targets import TargetSection
from csvd.errors import CsvdError
from csvd.exports.catalogue import AddLun, SetLun, TargetRecord, edited
from csvd.exports.cluster_sections import section_of
from csvd.exports.coordinator import NAME
from csvd.exports.joined import JoinedServing
from csvd.exports.node_ports import PortTold, as_ports, groups_at, ports_of, reached_at
from csvd.exports.pushed_keys import KeyPushed, KeysPushed, PushedKeys
from csvd.exports.sealing import Sealing

Json = dict[str, Any]

APPLY_S: Final = 10.0
"""How long the coordinator is kept waiting for a disk to open; what comes of it is reported later then."""
RETRY_S: Final = 10.0
"""After which what could not be served is tried again."""
ASK_S: Final = 10.0
AGAIN_S: Final = 1.0
MAX_TOLD: Final = 24
"""What a node tells the coordinator that it can not serve; it shows all of it itself."""


class ChangePushed(msgspec.Struct, forbid_unknown_fields=True):
    """Of the push "change": one target, and the revisions before and after."""

    base: int
    revision: int
    target: str
    record: TargetRecord | None


class AllPushed(msgspec.Struct, forbid_unknown_fields=True):
    """Of the push "all": everything there is."""

    revision: int
    targets: dict[str, TargetRecord]
    ports: Any
    key: str = ""


class ClusterTargets:
    """Serves the targets of the cluster at this node.

    What can not be served, as a LUN whose disk is missing here, is told of and tried again; the rest is served.

    Args:
        number: gives this node's number in the cluster; None while it has none, and serves nothing.
        portals: where this node listens for initiators of the cluster's targets.
        host: gives by what others reach this node, for portals on all addresses; empty where none does.
        tell: told what can not be served, and what can again: a word, a sentence, the target.
        on_current: called when what is served is what the cluster exports now, after this node was away.
        is_member: whether a node is a member of the cluster, by its id, as this one knows.

    Attributes:
        is_current: whether nothing that was changed while this node was away is still to be done: who has lost a right
            meanwhile has no session any more. Until then no command of the cluster's logical units may begin.
        revision: of what is wanted; it never goes back. -1 before the coordinator has said anything.
        sections: all targets of the cluster, by name.
        troubles: why something is not served here, by target, or target and LUN.
        ports: where all nodes are, and how, by portal group tag.
    """

    _log = Logger()

    def __init__(
        self,
        coordination: Coordination,
        serving: JoinedServing,
        sealing: Sealing,
        *,
        number: Callable[[], int | None],
        portals: Sequence[str],
        host: Callable[[], str],
        clock: Clock,
        tell: Callable[[str, str, str], None],
        on_current: Callable[[], None] = lambda: None,
        is_member: Callable[[str], bool] = lambda _node: False,
    ) -> None:
        self._coordination = coordination
        self._serving = serving
        self._sealing = sealing
        self._keys = PushedKeys(sealing.keys, is_member, clock)
        self._number = number
        self._portals = portals
        self._host = host
        self._clock = clock
        self._tell = tell
        self._on_current = on_current
        self.is_current = False
        self._has_joined = False
        self._absences = 0
        self._session: DiskSession | None = None
        self._ends: list[Callable[[], None]] = []
        self._timers: dict[str, DelayedCall] = {}
        self.revision = -1
        self._records: dict[str, TargetRecord] = {}
        self.sections: dict[str, TargetSection] = {}
        self._secrets: dict[str, bytes] = {}
        self._senseless: dict[str, str] = {}
        self.troubles: dict[str, str] = {}
        self.ports: Mapping[int, PortTold] = {}
        self._wanted = 0
        self._applied = 0
        self._is_applying = False
        self._waiting: list[Deferred[None]] = []
        self._said: Json = {}
        """The portal groups that the coordinator was told of in this session."""
        self._is_joining = False
        self._is_stopped = False

    @property
    def records(self) -> Mapping[str, TargetRecord]:
        """What the cluster exports, as this node was told."""
        return self._records

    @property
    def session(self) -> DiskSession | None:
        """This node's session with the coordinator of the system disk; None where there is none."""
        return self._session

    def start(self) -> None:
        """Serve from now on, whenever there is a system disk."""
        self._ends.append(self._coordination.on_sessions(self._bind))
        self._bind()

    def stop(self) -> None:
        """Begin nothing any more. What is served goes on until the serving is stopped."""
        self._is_stopped = True
        for end in self._ends:
            end()
        for timer in self._timers.values():
            if timer.active():
                timer.cancel()

    def _bind(self) -> None:
        session = self._coordination.system
        if session is self._session:
            return
        # Another system disk has another history.
        self._session, self.revision, self._records, self._said = session, -1, {}, {}
        if session is not None:
            session.on_pushed(NAME, self._pushed)
            self._ends.append(session.on_state(self._state_changed))
        self._wanted_is_other()
        self._state_changed()

    def _state_changed(self) -> None:
        session = self._session
        if session is not None and session.state == LIVE:
            self._go(self._join())
        elif session is None or session.state != RECLAIMING:
            self._absences += 1
            self._said = {}
            self._has_joined = self.is_current = False

    def _go(self, coroutine: Any) -> None:
        def failed(failure: Failure) -> None:
            self._log.failure("a fault of csvd in the exports of the cluster", failure)

        Deferred.fromCoroutine(coroutine).addErrback(failed)

    def _later(self, name: str, seconds: float, call: Callable[[], None]) -> None:
        timer = self._timers.get(name)
        if not self._is_stopped and (timer is None or not timer.active()):
            self._timers[name] = self._clock.callLater(seconds, call)

    # With the coordinator

    async def _join(self) -> None:
        """Tell the coordinator where this node is reached, and learn what is to be served."""
        session = self._session
        if session is None or self._is_joining or self._is_stopped:
            return
        self._is_joining = True
        groups, absences = self._groups(), self._absences
        try:
            params = {"groups": groups, "revision": self.revision}
            answer = await session.ask(NAME, "join", params, timeout_s=ASK_S)
            if "targets" in answer:
                self._take_all(_converted(answer, AllPushed))
            # What was answered before this node was away last is no news.
            if absences == self._absences:
                if not self._has_joined:
                    self._go(self._take_sizes())
                self._said = groups
                self._has_joined = True
                self._see_whether_current()
        except CsvdError as error:
            self._log.warn("the coordinator was not told of the portals here: {error}", error=error)
            self._later("join", AGAIN_S, self._state_changed)
            return
        finally:
            self._is_joining = False
        if self._said != self._groups() or not self._has_joined:
            self._state_changed()

    async def _take_sizes(self) -> None:
        """Have the logical units served here the sizes that their disks have: who has made one larger while this node
        was away has told the others. Nothing waits for that: a disk that does not answer must not hold up others."""
        for name, section in self.sections.items():
            for lun in section.lun:
                try:
                    await self._resized(name, lun.number)
                except CsvdError as error:
                    self._log.info(
                        "LUN {lun} of {name} keeps its size: {error}", lun=lun.number, name=name, error=error
                    )

    def _see_whether_current(self) -> None:
        if self._has_joined and not self.is_current and self._applied == self._wanted:
            self.is_current = True
            self._on_current()

    def _groups(self) -> Json:
        """Where this node is reached for the cluster, by tag."""
        number = self._number()
        if number is None:
            return {}
        own = {group.tag for group in groups_at(self._portals, number)}
        return {
            str(tag): [reached_at(address, self._host()) for address in group.values()]
            for tag, group in self._serving.groups().items()
            if tag in own
        }

    async def _pushed(self, method: str, params: Json) -> Json:
        if method == "change":
            change = _converted(params, ChangePushed)
            if change.base != self.revision:
                return {"revision": self.revision}
            self.revision = change.revision
            if change.record is None:
                self._records.pop(change.target, None)
            else:
                self._records[change.target] = change.record
            self._wanted_is_other()
        elif method == "all":
            self._take_all(_converted(params, AllPushed))
        elif method == "ports":
            self._take_ports(params.get("ports"))
            return {}
        elif method == "sessions":
            await self._serving.refresh()
            return {"sessions": sum(each["target"] == params.get("target") for each in self._serving.sessions())}
        elif method == "key":
            return await self._keys.take(_converted(params, KeyPushed))
        elif method == "keys":
            await self._keys.keep_only(_converted(params, KeysPushed))
            return {}
        elif method == "resized":
            await self._resized(str(params.get("target")), params.get("number"))
            return {}
        else:
            raise BadRequest(f"the exports of a node have no {method[:60]!r}")
        await self._until_applied()
        return self._report_now()

    def _use_key(self, key_id: str) -> None:
        """Seal by this key from now on; one that this node does not have, for it was away, is asked for."""
        if not self._keys.is_other(key_id):
            return

        async def use() -> None:
            try:
                await self._keys.use(key_id, self._session.coordinator if self._session is not None else "")
            except CsvdError as error:
                self._log.warn("the key of the cluster's secrets is not here: {error}", error=error)
                self._later("key", AGAIN_S, lambda: self._use_key(key_id))
            else:
                self._wanted_is_other()

        self._go(use())

    def _take_all(self, everything: AllPushed) -> None:
        self._take_ports(everything.ports)
        self._use_key(everything.key)
        if everything.revision > self.revision:
            self.revision, self._records = everything.revision, everything.targets
            self._wanted_is_other()

    def _take_ports(self, table: object) -> None:
        self.ports = ports_of(table)
        self._serving.set_cluster_ports(as_ports(self.ports))

    async def _resized(self, target: str, number: object) -> None:
        """The disk of a logical unit has another size: another node has given it that."""
        if isinstance(number, int) and self._serving.unit_face(target, number) is not None:
            await self._serving.resize(target, number, None, full=False)

    # Serving

    def number_changed(self) -> None:
        """This node has a number now, or another, or none any more."""
        self._wanted_is_other()

    async def try_out(self, edit: AddLun | SetLun) -> None:
        """See whether the disk of a logical unit that is to be added or changed could be served here.

        Raises:
            CsvdError: it could not, or the edit is wrong.
        """
        name, record, _ = edited(self._records, edit, lambda: "tried")
        assert record is not None
        self.check_serves(name)
        section, secrets = section_of(name, record, self._sealing)
        before = {lun.number for lun in self.sections[name].lun} if name in self.sections else set()
        luns = tuple(
            lun for lun in section.lun if lun.number not in before or lun.number == getattr(edit, "number", None)
        )
        await self._serving.try_for_cluster(replace(self._here(section), lun=luns), secrets)

    def check_serves(self, name: str) -> None:
        """Check that this node takes part in what the cluster exports; of one that does not nobody learns of it.

        Raises:
            Refused: it does not.
        """
        if self._number() is None:
            hint = "ask a node that does: a witness, and one whose cluster.portals are [], do not"
            raise Refused("this node serves nothing for the cluster", where=name, hint=hint)

    def _wanted_is_other(self) -> None:
        """What is to be served has changed."""
        self._read_records()
        self._want()

    def _want(self) -> None:
        """Serve what is to be served, as far as it is not; also again what could not be."""
        self._wanted += 1
        if not self._is_applying and not self._is_stopped:
            self._go(self._apply_all())

    async def _until_applied(self) -> None:
        """Wait until what is wanted now is served as far as it can be, but not for ever."""
        wanted, deadline_s = self._wanted, self._clock.seconds() + APPLY_S
        while self._applied < wanted and self._clock.seconds() < deadline_s:
            waiting: Deferred[None] = Deferred()
            self._waiting.append(waiting)
            left_s = deadline_s - self._clock.seconds()
            try:
                await waiting.addTimeout(left_s, self._clock)  # type: ignore[arg-type]
            except DeferredTimeoutError:
                return

    async def _apply_all(self) -> None:
        self._is_applying = True
        try:
            while self._applied != self._wanted:
                wanted = self._wanted
                await self._apply()
                self._applied = wanted
                waiting, self._waiting = self._waiting, []
                for one in waiting:
                    if not one.called:
                        one.callback(None)
        finally:
            self._is_applying = False
        self._see_whether_current()
        if self.troubles:
            self._later("retry", RETRY_S, self._want)
        if self._said != self._groups():
            self._state_changed()

    def _read_records(self) -> None:
        """Take all targets as sections, and note which make no sense here."""
        self.sections, self._secrets, self._senseless = {}, {}, {}
        if self._number() is None:
            return
        for name, record in sorted(self._records.items()):
            try:
                section, opened = section_of(name, record, self._sealing)
                self.sections[name] = self._here(section)
                self._secrets |= opened
            except CsvdError as error:
                self._senseless[name] = str(error)

    async def _apply(self) -> None:
        sections, secrets, troubles = self.sections, self._secrets, {**self._senseless}
        error = await self._try(sections, secrets)
        if error is not None:
            troubles |= await self._one_by_one(sections, secrets) if sections else {"": error}
        self._note(troubles)

    def _here(self, section: TargetSection) -> TargetSection:
        """A target with the portal groups of this node."""
        number = self._number()
        assert number is not None
        return replace(section, portals=(), portal_group=groups_at(self._portals, number))

    async def _one_by_one(self, sections: Mapping[str, TargetSection], secrets: Mapping[str, bytes]) -> dict[str, str]:
        """Serve as much as can be; give why the rest can not."""
        troubles: dict[str, str] = {}
        served = {section.name: section for section in self._serving.for_cluster if section.name in sections}
        for name, section in sections.items():
            before = served.get(name)
            stays = tuple(lun for lun in section.lun if before is not None and lun in before.lun)
            error = await self._try(served | {name: replace(section, lun=stays)}, secrets)
            if error is not None:
                # What it was before is not what it is to be, as who may log in.
                troubles[name] = error
                served.pop(name, None)
                continue
            served[name] = replace(section, lun=stays)
            for lun in section.lun:
                if lun in stays:
                    continue
                tried = replace(section, lun=(*served[name].lun, lun))
                error = await self._try(served | {name: tried}, secrets)
                if error is None:
                    served[name] = tried
                else:
                    troubles[f"{name} LUN {lun.number}"] = error
        error = await self._try(served, secrets)
        if error is not None:
            troubles[""] = error
        return troubles

    async def _try(self, sections: Mapping[str, TargetSection], secrets: Mapping[str, bytes]) -> str | None:
        """Serve these and no others; give why they can not be."""
        try:
            await self._serving.serve_for_cluster(list(sections.values()), secrets)
        except CsvdError as error:
            return str(error)
        return None

    def _note(self, troubles: dict[str, str]) -> None:
        before, self.troubles = self.troubles, troubles
        for what, why in troubles.items():
            if before.get(what) != why:
                self._tell("exports", f"{what or 'the cluster'} can not be served here: {why}", what)
        for what in before.keys() - troubles.keys():
            self._tell("exports", f"{what or 'the cluster'} is in order here again", what)
        if before != troubles:
            self._go(self._report())

    def _report_now(self) -> Json:
        """What this node can not serve, as far as it fits."""
        told = {what[:280]: why[:400] for what, why in islice(self.troubles.items(), MAX_TOLD)}
        if len(self.troubles) > MAX_TOLD:
            told["and more"] = f"{len(self.troubles) - MAX_TOLD} others"
        return {"revision": self.revision, "troubles": told}

    async def _report(self) -> None:
        session = self._session
        if session is None or not session.is_live:
            return
        try:
            await session.ask(NAME, "report", self._report_now(), timeout_s=ASK_S)
        except CsvdError as error:
            self._log.debug("the coordinator was not told what is served here: {error}", error=error)


def _converted(params: Json, kind: type[Any]) -> Any:
    try:
        return msgspec.convert(params, kind)
    except msgspec.ValidationError as error:
        raise BadRequest("what the coordinator says of the exports is malformed", why=str(error)) from error
