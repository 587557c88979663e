"""The targets of a running node: what they are, and how that is changed without a restart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred, DeferredLock
from twisted.logger import Logger

from csvd.api.errors import BadRequest, NotFound, Refused
from csvd.api.events import EventRing
from csvd.config.load import ConfigProblems, Source, complete
from csvd.config.schema import Config
from csvd.config.targets import LunSection, TargetSection, portal_groups
from csvd.errors import CsvdError
from csvd.exports import changes as change_file
from csvd.exports.build import discovery_access_of, export_of, settings_of
from csvd.exports.changes import Changes, Entry, TargetEntry
from csvd.exports.difference import difference_of, lowest_free
from csvd.exports.faces import lun_face, origins_of, section_face, target_face
from csvd.iscsi.names import check_iscsi_name
from csvd.iscsi.portals import PortalGroup
from csvd.scsi.logical_unit import LogicalUnit
from csvd.storage.open import create_file
from csvd.target.kept_state import KeptState
from csvd.target.service import TargetService
from csvd.target.units import Units

Json = dict[str, Any]
T = TypeVar("T")


class Run(Protocol):
    """Runs a job in a thread."""

    def __call__(self, job: Callable[[], T], /) -> Deferred[T]:
        """Fires on the loop."""


class Administration:
    """Opens what the configuration says at the start, and changes it at run time.

    Every change is checked by the same rules as the configuration file, carried out as far as it can fail, kept
    durably, and only then seen by initiators. Changes are made one after the other.

    Args:
        source: the configuration file.
        run: for what blocks.

    Raises:
        ConfigError: what was kept at run time can not be read, or contradicts the configuration file.
    """

    log = Logger()

    def __init__(
        self,
        source: Source,
        directory: Path,
        *,
        service: TargetService,
        units: Units,
        keeper: KeptState,
        run: Run,
        events: EventRing,
    ) -> None:
        self._source = source
        self._directory = directory
        self._service = service
        self._units = units
        self._keeper = keeper
        self._run = run
        self._events = events
        self._lock = DeferredLock()
        self._changes = change_file.read_changes(directory)
        self._config = self._complete(self._changes)

    def _complete(self, changes: Changes) -> Config:
        where = str(self._directory / change_file.FILE_NAME)
        return complete(change_file.merge(self._source, changes, where=where))

    # The start

    def start(self) -> list[str]:
        """Open all disks and portals, and serve all targets; give the addresses of the portals.

        Raises:
            CsvdError: a disk, a secret or a portal is wrong. What was opened is the caller's to close, by stopping
                the service and closing the units.
        """
        for section in self._config.target:
            units = [self._open(unit) for unit in section.lun]
            self._service.add_target(export_of(section, units))
        self._service.entity.discovery_access = discovery_access_of(self._config)
        groups = portal_groups(self._config.target)
        return self._service.start(PortalGroup(tag, tuple(portals)) for tag, portals in groups.items())

    def _open(self, section: LunSection) -> LogicalUnit:
        unit = self._units.open(settings_of(section))
        self._keeper.attach(unit)
        return unit

    # What there is

    def targets(self) -> list[Json]:
        """All targets."""
        sessions = self._service.sessions()
        return [
            target_face(
                section,
                change_file.origin_of(self._changes.targets, section.name),
                self._service.units(section.name),
                [session for session in sessions if session["target"] == section.name],
                self._addresses(section),
            )
            for section in self._config.target
        ]

    def _addresses(self, section: TargetSection) -> list[str]:
        groups = self._service.groups()
        return [address for tag in section.groups() for address in groups.get(tag, {}).values()]

    def target(self, name: str) -> Json:
        """One target, with its logical units and its access list. Raises NotFound."""
        section = self._section(name)
        face = next(face for face in self.targets() if face["name"] == section.name)
        return {**face, "luns": self.luns(section.name), "acl": self.acl(section.name)}

    def luns(self, name: str | None = None) -> list[Json]:
        """The logical units of a target, or of all. Raises NotFound."""
        sections = self._config.target if name is None else [self._section(name)]
        return [
            lun_face(section.name, lun, unit, change_file.lun_origin(self._changes, section.name, lun.number))
            for section in sections
            for lun in section.lun
            if (unit := self._service.unit(section.name, lun.number)) is not None
        ]

    def lun(self, name: str, number: int) -> Json:
        """One logical unit. Raises NotFound."""
        section = self._section(name)
        self._lun(section, number)
        return next(face for face in self.luns(section.name) if face["number"] == number)

    def acl(self, name: str) -> list[Json]:
        """Who may log in to a target. Raises NotFound."""
        section = self._section(name)
        entry = self._changes.targets.get(section.name, TargetEntry())
        return [
            {**section_face(each), "origin": change_file.origin_of(entry.acl, each.initiator)} for each in section.acl
        ]

    def portals(self) -> list[Json]:
        """Where the node listens, and for which targets."""
        return [
            {
                "portal_group_tag": tag,
                "portal": portal,
                "address": address,
                "targets": [section.name for section in self._config.target if tag in section.groups()],
            }
            for tag, group in self._service.groups().items()
            for portal, address in group.items()
        ]

    def configuration(self) -> Json:
        """All of the configuration as it is in force, and where the parts of its targets are from."""
        return {
            "file": self._source.where,
            "changes_file": str(self._directory / change_file.FILE_NAME),
            "configuration": section_face(self._config),
            "origins": origins_of(self._config.target, self._changes),
        }

    def _section(self, name: str) -> TargetSection:
        folded = name.lower()
        for section in self._config.target:
            if section.name == folded:
                return section
        known = ", ".join(section.name for section in self._config.target)
        raise NotFound("there is no such target", where=name[:250], hint=f"there are: {known}" if known else "")

    @staticmethod
    def _lun(section: TargetSection, number: int) -> LunSection:
        for lun in section.lun:
            if lun.number == number:
                return lun
        known = ", ".join(str(lun.number) for lun in section.lun)
        raise NotFound(f"there is no LUN {number}", where=section.name, hint=f"there are: {known}" if known else "")

    # Targets

    async def create_target(self, name: str, keys: Json) -> Json:
        """Serve another target, by the keys of ``[[target]]``."""
        name = check_iscsi_name(name)
        if not {"portals", "portal_group_tag", "portal_group"} & keys.keys() and self._config.target:
            first = self._config.target[0]
            keys = {**keys, "portals": list(first.portals), "portal_group_tag": first.portal_group_tag}
        await self._change(
            lambda changes: change_file.make(changes.targets, name, TargetEntry(keys=keys)),
            unless=lambda: self._refuse_target(name),
        )
        self._tell(f"target {name} was made", name)
        return self.target(name)

    def _refuse_target(self, name: str) -> None:
        if any(section.name == name for section in self._config.target):
            raise Refused("the target is there already", where=name)

    async def set_target(self, name: str, keys: Json) -> Json:
        """Change keys of a target; None is the default again. Sessions that are there go on as they are."""
        name = self._section(name).name
        if "name" in keys:
            raise BadRequest("a target keeps its name", where=name)
        await self._change(
            lambda changes: change_file.change(changes.targets, name, keys, TargetEntry),
            unless=lambda: self._section(name),
        )
        self._tell(f"target {name} was changed: {', '.join(sorted(keys))}", name)
        return self.target(name)

    async def remove_target(self, name: str, *, force: bool) -> Json:
        """Serve a target no more. With sessions that takes ``force``. Its disks stay as they are."""
        face = self.target(name)
        name = face["name"]

        def refuse() -> None:
            self._section(name)
            count = sum(session["target"] == name for session in self._service.sessions())
            if count and not force:
                raise Refused(f"the target has {count} sessions", where=name, hint="--force ends them")

        await self._change(lambda changes: change_file.remove(changes.targets, name, TargetEntry), unless=refuse)
        self._tell(f"target {name} was removed", name)
        return face

    # Logical units

    async def add_lun(self, name: str, keys: Json) -> Json:
        """Serve another logical unit; without ``number``, at the lowest LUN that is free."""
        section = self._section(name)
        name = section.name
        number = keys.get("number", lowest_free([lun.number for lun in section.lun]))

        def refuse() -> None:
            if any(lun.number == number for lun in self._section(name).lun):
                raise Refused(f"LUN {number} is taken", where=name)

        if type(number) is not int:
            raise BadRequest("a LUN is a whole number", where=name)
        rest = {key: value for key, value in keys.items() if key != "number"}
        await self._change(
            lambda changes: change_file.make(
                changes.targets.setdefault(name, TargetEntry()).luns, str(number), Entry(keys=rest)
            ),
            unless=refuse,
        )
        self._tell(f"LUN {number} of {name} was added", name)
        return self.lun(name, number)

    async def set_lun(self, name: str, number: int, keys: Json) -> Json:
        """Change keys of a logical unit; None is the default again. It is opened anew: initiators are told."""
        name = self._section(name).name
        if "number" in keys:
            raise BadRequest("a logical unit keeps its number", where=name)

        def edit(changes: Changes) -> None:
            target = changes.targets.setdefault(name, TargetEntry())
            change_file.change(target.luns, str(number), keys, Entry)

        await self._change(edit, unless=lambda: self._lun(self._section(name), number))
        self._tell(f"LUN {number} of {name} was changed: {', '.join(sorted(keys))}", name)
        return self.lun(name, number)

    async def remove_lun(self, name: str, number: int) -> Json:
        """Serve a logical unit no more, once what it is at is answered. Its disk stays as it is."""
        name = self._section(name).name
        face = self.lun(name, number)

        def edit(changes: Changes) -> None:
            change_file.remove(changes.targets.setdefault(name, TargetEntry()).luns, str(number), Entry)

        await self._change(edit, unless=lambda: self._lun(self._section(name), number))
        self._tell(f"LUN {number} of {name} was removed", name)
        return face

    async def resize_lun(self, name: str, number: int, size_bytes: int | None, *, force: bool) -> Json:
        """Give the disk of a logical unit another size; all logical units over it tell their initiators.

        Args:
            size_bytes: of the file; None takes the size that the file or device was given by others.
            force: a smaller size is meant: what lies beyond it is lost.
        """
        await self._lock.acquire()
        try:
            section = self._section(name)
            name = section.name
            lun = self._lun(section, number)
            unit = self._service.unit(name, number)
            assert unit is not None
            before_bytes = unit.device.size_bytes
            if size_bytes is not None and size_bytes < before_bytes and not force:
                raise Refused(
                    f"LUN {number} has {before_bytes} bytes, more than {size_bytes}",
                    where=name,
                    hint="--force makes it smaller: what lies beyond is lost",
                )
            units = self._units.sharing(unit)
            if size_bytes is not None and size_bytes < before_bytes:
                # Noted first: a file that is longer than was noted stands in no one's way, a shorter one does.
                await self._note_size(units, size_bytes)
            await self._units.resize(unit, size_bytes, full=lun.provisioning == "full")
            for each in units:
                self._service.resized(each)
            if unit.device.size_bytes > before_bytes:
                await self._note_size(units, unit.device.size_bytes)
        finally:
            self._lock.release()
        self._tell(f"LUN {number} of {name} has {unit.device.size_bytes} bytes, not {before_bytes}", name)
        return self.lun(name, number)

    async def _note_size(self, units: Sequence[LogicalUnit], size_bytes: int) -> None:
        """Have ``create`` say the size that the file has, so that it does not stand in the way of the next start."""
        changes = self._changes.copy()
        for section in self._config.target:
            for lun in section.lun:
                if lun.create is not None and self._service.unit(section.name, lun.number) in units:
                    target = changes.targets.setdefault(section.name, TargetEntry())
                    change_file.change(target.luns, str(lun.number), {"create": size_bytes}, Entry)
        config = self._complete(changes)
        await self._save(changes)
        self._changes, self._config = changes, config

    # Access lists

    async def add_acl(self, name: str, initiator: str, keys: Json) -> Json:
        """Let an initiator log in; with the first, only those of the list may."""
        name = self._section(name).name
        initiator = check_iscsi_name(initiator)

        def refuse() -> None:
            if any(entry.initiator == initiator for entry in self._section(name).acl):
                raise Refused("the initiator is in the access list already", where=initiator)

        def edit(changes: Changes) -> None:
            change_file.make(changes.targets.setdefault(name, TargetEntry()).acl, initiator, Entry(keys=keys))

        await self._change(edit, unless=refuse)
        self._tell(f"{initiator} may log in to {name}", name)
        return next(entry for entry in self.acl(name) if entry["initiator"] == initiator)

    async def remove_acl(self, name: str, initiator: str) -> Json:
        """Take an initiator out of the access list, and end its sessions. With the last one, nobody may log in."""
        name = self._section(name).name
        initiator = initiator.lower()

        def find() -> Json:
            for entry in self.acl(name):
                if entry["initiator"] == initiator:
                    return entry
            raise NotFound("the initiator is not in the access list", where=initiator)

        face = find()

        def edit(changes: Changes) -> None:
            target = changes.targets.setdefault(name, TargetEntry())
            change_file.remove(target.acl, initiator, Entry)
            section = self._section(name)
            if len(section.acl) == 1 and section.initiators is None:
                # Without a list all may log in, which is not what is asked for.
                target.keys = {**target.keys, "initiators": []}

        await self._change(edit, unless=find)
        for session in self._service.sessions():
            if session["target"] == name and session["initiator"] == initiator:
                self._service.drop_session(name, session["tsih"])
        self._tell(f"{initiator} may no longer log in to {name}", name)
        return face

    # Sessions

    def drop_session(self, name: str, tsih: int, *, grace_s: int = 0) -> Json:
        """End a session, or have its initiator asked to log out within ``grace_s`` first. Raises NotFound."""
        section = self._section(name)
        for session in self._service.sessions():
            if session["target"] == section.name and session["tsih"] == tsih:
                how = "was dropped"
                if not grace_s:
                    self._service.drop_session(section.name, tsih)
                elif self._service.request_logout(section.name, tsih, grace_s):
                    how = f"has {grace_s} s to log out"
                self._tell(f"the session {tsih} of {session['initiator']} {how}", section.name)
                return session
        raise NotFound(f"there is no session {tsih}", where=section.name)

    # Carrying changes out

    async def _change(self, edit: Callable[[Changes], None], *, unless: Callable[[], Any]) -> None:
        """Make one change: check it, open what it takes, keep it, serve it.

        Args:
            unless: raises what stands against it; called when its turn has come.

        Raises:
            CsvdError: it can not be; all is as it was.
        """
        await self._lock.acquire()
        try:
            unless()
            changes = self._changes.copy()
            edit(changes)
            try:
                config = self._complete(changes)
            except ConfigProblems as error:
                raise self._as_answer(error) from error
            await self._carry_out(changes, config)
        finally:
            self._lock.release()

    def _as_answer(self, error: ConfigProblems) -> BadRequest:
        one = error.problems[0]
        return BadRequest(one.what, where=one.where.removeprefix(f"{self._source.where}: "), why=one.why, hint=one.hint)

    async def _carry_out(self, changes: Changes, config: Config) -> None:
        difference = difference_of(self._config.target, config.target)
        opened: dict[tuple[str, int], LogicalUnit] = {}
        try:
            for name, lun in [
                *difference.units_new,
                *((section.name, lun) for section in difference.new for lun in section.lun),
            ]:
                await self._create(lun)
                opened[name, lun.number] = self._open(lun)
            added = [
                export_of(section, [opened[section.name, lun.number] for lun in section.lun])
                for section in difference.new
            ]
            changed = [export_of(section, []) for section in difference.other]
            discovery_access = discovery_access_of(config)
            self._open_portals(config)
            await self._save(changes)
        except BaseException:
            self._close_portals(self._config)
            for unit in opened.values():
                await self._units.close(unit)
            raise
        self._changes, self._config = changes, config
        self._service.entity.discovery_access = discovery_access
        for section in difference.gone:
            for unit in await self._service.remove_target(section.name):
                await self._close(unit)
        for name, lun in difference.units_gone:
            await self._close(await self._service.remove_unit(name, lun.number))
        for export in added:
            self._service.add_target(export)
        for export in changed:
            self._service.change_target(export)
        for name, lun in difference.units_new:
            self._service.add_unit(name, opened[name, lun.number])
        self._close_portals(config)

    def _open_portals(self, config: Config) -> None:
        """Listen at the portals of a configuration, beside those that are listened at."""
        open_now = self._service.groups()
        for tag, portals in portal_groups(config.target).items():
            self._service.set_group(PortalGroup(tag, tuple(dict.fromkeys([*open_now.get(tag, {}), *portals]))))

    def _close_portals(self, config: Config) -> None:
        """Listen at no portals but those of a configuration."""
        wanted = portal_groups(config.target)
        for tag, open_now in self._service.groups().items():
            portals = tuple(portal for portal in wanted.get(tag, ()) if portal in open_now)
            if portals:
                self._service.set_group(PortalGroup(tag, portals))
            else:
                self._service.close_group(tag)

    async def _create(self, lun: LunSection) -> None:
        """Make the file of a logical unit, in a thread: to allocate a large one takes its time."""
        create_bytes, path = lun.create, lun.disk
        if create_bytes is not None and not Path(path).exists():
            full = lun.provisioning == "full"
            await self._run(lambda: create_file(path, create_bytes, block_bytes=lun.block_bytes, full=full))

    async def _close(self, unit: LogicalUnit) -> None:
        try:
            await self._units.close(unit)
        except CsvdError as error:
            self.log.error("{error}", error=error)
            self._events.add("disk", str(error), subject=unit.device.url)

    async def _save(self, changes: Changes) -> None:
        await self._run(lambda: change_file.write_changes(self._directory, changes))

    def _tell(self, text: str, subject: str) -> None:
        self.log.info("{text}", text=text)
        self._events.add("change", text, subject=subject)
