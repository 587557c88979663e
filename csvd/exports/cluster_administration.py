"""The targets of the cluster, as any of its nodes shows and changes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from csvd.api.errors import BadRequest, NotFound, Refused, Unavailable
from csvd.cluster.coordination.faces import DiskSession
from csvd.config.secrets import read_secret_file
from csvd.config.targets import LunSection, TargetSection
from csvd.config.values import size
from csvd.errors import ConfigError, CsvdError
from csvd.exports.catalogue import (
    AddAcl,
    AddLun,
    AnyEdit,
    CreateTarget,
    RemoveAcl,
    RemoveLun,
    RemoveTarget,
    SetAcl,
    SetLun,
    SetTarget,
    secrets_of,
)
from csvd.exports.cluster_sections import sealed_keys
from csvd.exports.cluster_targets import ClusterTargets
from csvd.exports.coordinator import NAME
from csvd.exports.faces import lun_face, lun_of, section_face, target_face
from csvd.exports.joined import JoinedServing
from csvd.exports.local import Run
from csvd.exports.sealing import Sealing
from csvd.iscsi.names import check_iscsi_name
from csvd.storage.open import create_disk, is_there, kind_of

Json = dict[str, Any]

CHANGE_S: Final = 60.0
"""How long a change may take, over a change of the coordinator, too."""
STATUS_S: Final = 2.0
AWAY: Final = "unavailable"
_CREATED: Final = size(512)
_UNSERVED: Final = dict.fromkeys(("fence", "size_bytes", "thin", "write_cache", "vendor", "product", "revision"), None)


class ClusterAdministration:
    """Shows the cluster's targets, and asks the coordinator to change them.

    Secrets are read from files of this node, and sealed before they leave it.

    Args:
        run: for what blocks.
        read_secret: gives what a file with a secret holds.
    """

    def __init__(
        self,
        targets: ClusterTargets,
        serving: JoinedServing,
        sealing: Sealing,
        run: Run,
        read_secret: Callable[[Path], bytes] = read_secret_file,
    ) -> None:
        self._targets = targets
        self._serving = serving
        self._sealing = sealing
        self._run = run
        self._read_secret = read_secret
        self._status: Mapping[str, Json] = {}
        """What each node serves, by what the coordinator was told."""

    @property
    def is_there(self) -> bool:
        """Whether there is a cluster with a system disk."""
        return self._targets.session is not None

    def _session(self) -> DiskSession:
        session = self._targets.session
        if session is None:
            raise Unavailable("there is no system disk", hint="csvd disk add makes one; --local is for this node alone")
        return session

    def has(self, name: str) -> bool:
        """Whether there is a target of this name."""
        return name.lower() in self._targets.sections

    # What there is

    async def refresh(self) -> None:
        """Learn what the other nodes serve; what was known before stays known where the coordinator does not answer."""
        await self._serving.refresh()
        session = self._targets.session
        if session is None:
            self._status = {}
            return
        try:
            answer = await session.ask(NAME, "status", {}, timeout_s=STATUS_S)
            self._status = msgspec.convert(answer.get("nodes"), dict[str, Json])
        except (CsvdError, msgspec.ValidationError):
            return

    def targets(self) -> list[Json]:
        """All targets."""
        sessions = self._serving.sessions()
        addresses = [address for port in self._targets.ports.values() for address in port.addresses]
        return [
            {
                **target_face(
                    section, "cluster", [one for one in sessions if one["target"] == section.name], addresses
                ),
                "scope": "cluster",
                "portals": [portal for portals in section.groups().values() for portal in portals],
                "portal_group_tag": min(section.groups(), default=0),
                "nodes": self._nodes(section.name),
            }
            for section in self._targets.sections.values()
        ]

    def _nodes(self, name: str) -> Json:
        """By node, whether it serves a target, and what of it it can not serve."""
        found: Json = {}
        for port in self._targets.ports.values():
            is_away = port.state == AWAY
            found[port.node] = {"state": port.state, "serves": not is_away, "troubles": {}}
        for node, report in self._status.items():
            troubles = {
                what: why
                for what, why in report.get("troubles", {}).items()
                if what in ("", name) or what.startswith(f"{name} LUN ")
            }
            face = found.setdefault(node, {"state": "", "serves": True, "troubles": {}})
            face["troubles"] = troubles
            face["serves"] = face["serves"] and name not in troubles and "" not in troubles
        return dict(sorted(found.items()))

    def target(self, name: str) -> Json:
        """One target, with its logical units and its access list. Raises NotFound."""
        section = self._section(name)
        face = next(face for face in self.targets() if face["name"] == section.name)
        return {**face, "luns": self.luns(section.name), "acl": self.acl(section.name)}

    def luns(self, name: str | None = None) -> list[Json]:
        """The logical units of a target, or of all; of one that is not served here, what is known."""
        sections = list(self._targets.sections.values()) if name is None else [self._section(name)]
        return [self._lun_face(section, lun) for section in sections for lun in section.lun]

    def _lun_face(self, section: TargetSection, lun: LunSection) -> Json:
        unit = self._serving.unit_face(section.name, lun.number)
        why = ""
        if unit is None:
            unit = {**_UNSERVED, "disk_kind": kind_of(lun.disk), "naa": (lun.naa or b"").hex()}
            troubles = self._targets.troubles
            why = troubles.get(f"{section.name} LUN {lun.number}", troubles.get(section.name, "not yet"))
        return {**lun_face(section.name, lun, unit, "cluster"), "scope": "cluster", "trouble": why}

    def lun(self, name: str, number: int) -> Json:
        """One logical unit. Raises NotFound."""
        section = self._section(name)
        return self._lun_face(section, lun_of(section, number))

    def acl(self, name: str) -> list[Json]:
        """Who may log in to a target. Raises NotFound."""
        return [{**section_face(each), "origin": "cluster"} for each in self._section(name).acl]

    def _acl_entry(self, name: str, initiator: str) -> Json:
        folded = initiator.lower()
        for entry in self.acl(name):
            if entry["initiator"] == folded:
                return entry
        raise NotFound("the initiator is not in the access list", where=initiator[:250])

    def troubles(self) -> dict[str, str]:
        """What this node can not serve, by target, or target and LUN, and why."""
        return {what or "what the cluster exports": why for what, why in self._targets.troubles.items()}

    def own_portals(self, portals: list[Json]) -> list[Json]:
        """The portals of this node, with what they are for the cluster: those targets, too, and the state."""
        ports = self._targets.ports
        return [
            {**one, "state": ports[tag].state, "targets": [*one["targets"], *self._targets.sections]}
            if (tag := one["portal_group_tag"]) in ports
            else one
            for one in portals
        ]

    def portals(self) -> list[Json]:
        """Where the other nodes listen for the cluster."""
        own = self._serving.groups()
        return [
            {
                "portal_group_tag": tag,
                "portal": address,
                "address": address,
                "node": port.node,
                "state": port.state,
                "targets": list(self._targets.sections),
            }
            for tag, port in sorted(self._targets.ports.items())
            if tag not in own
            for address in port.addresses
        ]

    def _section(self, name: str) -> TargetSection:
        section = self._targets.sections.get(name.lower())
        if section is None:
            self._targets.check_serves(name[:250])
            raise NotFound("the cluster has no such target", where=name[:250])
        return section

    # Changes

    async def create_target(self, name: str, keys: Json) -> Json:
        """Serve another target at all nodes."""
        name = check_iscsi_name(name)
        await self._change(CreateTarget(name, self._sealed(keys, name)))
        return self.target(name)

    async def set_target(self, name: str, keys: Json) -> Json:
        """Change keys of a target."""
        name = self._section(name).name
        await self._change(SetTarget(name, self._sealed(keys, name)))
        return self.target(name)

    async def remove_target(self, name: str, *, force: bool) -> Json:
        """Serve a target no more, at any node. With sessions that takes ``force``."""
        face = self.target(name)
        await self._change(RemoveTarget(face["name"]), force=force)
        return face

    async def add_lun(self, name: str, keys: Json) -> Json:
        """Serve another logical unit. With ``create`` its disk is made, once, by this node."""
        name = self._section(name).name
        rest = {key: value for key, value in keys.items() if key not in ("number", "create")}
        number = keys.get("number")
        if number is not None and type(number) is not int:
            raise BadRequest("a LUN is a whole number", where=name)
        edit = AddLun(name, self._sealed(rest, name), number)
        if keys.get("create") is not None:
            await self._change(edit, only_check=True)
            await self._create(rest, keys["create"])
        await self._targets.try_out(edit)
        answer = await self._change(edit)
        added = answer.get("number")
        if not isinstance(added, int):
            raise Unavailable("the coordinator did not say which LUN it is", where=name)
        return self.lun(name, added)

    async def _create(self, keys: Mapping[str, Any], create: object) -> None:
        """Make a disk. Only one that is not there: on a node that does not see the others' it would be another one."""
        url, block_bytes = str(keys["disk"]), int(keys.get("block_bytes", 512))
        try:
            create_bytes: int = _CREATED.read(create)
        except ConfigError as error:
            raise BadRequest(error.what, where="create", why=error.why, hint=error.hint) from error
        if create_bytes % block_bytes:
            raise BadRequest(f"is {create_bytes} bytes, no whole number of {block_bytes}-byte blocks", where="create")
        full = keys.get("provisioning") == "full"

        def make() -> None:
            if is_there(url):
                raise Refused("it is there already", where=url, hint="leave out --create to serve it as it is")
            create_disk(url, create_bytes, block_bytes=block_bytes, full=full)

        await self._run(make)

    async def set_lun(self, name: str, number: int, keys: Json) -> Json:
        """Change keys of a logical unit."""
        name = self._section(name).name
        edit = SetLun(name, number=number, keys=self._sealed(keys, name))
        await self._targets.try_out(edit)
        await self._change(edit)
        return self.lun(name, number)

    async def remove_lun(self, name: str, number: int) -> Json:
        """Serve a logical unit no more."""
        face = self.lun(name, number)
        await self._change(RemoveLun(face["target"], number=number))
        return face

    async def resize_lun(self, name: str, number: int, size_bytes: int | None, *, force: bool) -> Json:
        """Give a disk another size here, and have all nodes take it. It never gets smaller."""
        section = self._section(name)
        face = self.lun(section.name, number)
        before_bytes = face["size_bytes"]
        if before_bytes is None:
            raise Unavailable(f"LUN {number} is not served here", where=section.name, why=face["trouble"])
        if size_bytes is not None and size_bytes < before_bytes:
            raise Refused(
                f"LUN {number} has {before_bytes} bytes, more than {size_bytes}",
                where=section.name,
                why="other nodes may be writing to what would be cut off",
                hint="take it out of the cluster, and make it smaller then",
            )
        await self._serving.resize(section.name, number, size_bytes, full=face["provisioning"] == "full")
        params = {"target": section.name, "number": number}
        await self._session().ask(NAME, "resized", params, timeout_s=CHANGE_S)
        return self.lun(section.name, number)

    async def add_acl(self, name: str, initiator: str, keys: Json) -> Json:
        """Let an initiator log in, at any node."""
        name, initiator = self._section(name).name, check_iscsi_name(initiator)
        await self._change(AddAcl(name, initiator=initiator, keys=self._sealed(keys, name, initiator)))
        return self._acl_entry(name, initiator)

    async def set_acl(self, name: str, initiator: str, keys: Json) -> Json:
        """Change what holds for an initiator."""
        name, initiator = self._section(name).name, check_iscsi_name(initiator)
        await self._change(SetAcl(name, initiator=initiator, keys=self._sealed(keys, name, initiator)))
        return self._acl_entry(name, initiator)

    async def remove_acl(self, name: str, initiator: str) -> Json:
        """Let an initiator log in no more; its sessions end, at every node."""
        face = self._acl_entry(name, initiator)
        await self._change(RemoveAcl(self._section(name).name, initiator=face["initiator"]))
        return face

    async def rotate_key(self, *, without: str = "", timeout_s: float = CHANGE_S) -> Json:
        """Have all secrets sealed with a new key, which every node has by then.

        Args:
            without: the id of a node that was evicted, and must not get it.

        Returns:
            ``key``, the id of the new one, and ``secrets``, what the old one was for: see `secrets_of`.
        """
        secrets = secrets_of(self._targets.records)
        answer = await self._session().ask(NAME, "rotate", {"without": without}, timeout_s=timeout_s)
        return {"key": answer.get("key"), "secrets": secrets}

    def _sealed(self, keys: Mapping[str, Any], target: str, initiator: str = "") -> Json:
        return sealed_keys(keys, target, self._sealing, self._read_secret, initiator)

    async def _change(self, edit: AnyEdit, **more: bool) -> Json:
        params = {"edit": msgspec.to_builtins(edit), **more}
        return await self._session().ask(NAME, "change", params, timeout_s=CHANGE_S)
