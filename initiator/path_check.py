"""Looking at the disk at the end of a path: is it the one that we mean, and does the path take commands?"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from initiator.disk import Disk
from initiator.engine.requests import CHECK_CONDITION, Command
from initiator.errors import CommandFailed, InitiatorError, MalformedAnswer
from initiator.failures import failure_of
from initiator.scsi import cdb, port_groups, target_ports
from initiator.scsi import lun as luns
from initiator.scsi.inquiry import DeviceIdentification, SupportedPages, UnitSerialNumber
from initiator.scsi.sense import Sense, SenseKey
from initiator.scsi.target_ports import AccessState
from initiator.session import Session
from initiator.unit import UNIT_ATTENTIONS

_GROUPS_BYTES: Final = 4096
_PORT_GROUP_DESIGNATOR: Final = 5
_OF_PORT: Final = 1
_LUN_NOT_SUPPORTED: Final = (0x25, 0x00)

Attention = Callable[[Sense], None]
"""Told of the unit attentions that are cleared on the way."""


@dataclass(frozen=True, slots=True)
class Access:
    """What a path allows now."""

    state: AccessState
    preferred: bool = False
    why: str = ""
    """Why it takes no commands."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What there is at the end of a path."""

    identity: str
    """The designator of the logical unit by which paths are matched; empty where it has none."""
    serial: str
    size_bytes: int | None
    """None where the path does not say, as one in standby may not."""
    port_group: int | None
    """The target port group of the path's port; None where the device has no groups."""
    explicit: bool
    """Whether SET TARGET PORT GROUPS is supported."""


async def touch(session: Session, lun: int, timeout_s: float, attention: Attention) -> Sense | CommandFailed | None:
    """Have a command answered: TEST UNIT READY, again as long as there are unit attentions.

    Gives None when the unit is ready, and else why it is not. That it was answered proves that the target has nothing
    more of the nexus that this session has reinstated (see :mod:`initiator.multipath`).

    Raises:
        TimedOut, SessionLost, SessionClosed.
    """
    for _ in range(UNIT_ATTENTIONS + 1):
        command = Command(luns.encode(lun), cdb.TEST_UNIT_READY)
        await session.submit(command, timeout_s)
        if not command.status and not command.response:
            return None
        failure = failure_of(command)
        if failure.sense is None or command.status != CHECK_CONDITION:
            return failure
        if failure.sense.key is not SenseKey.UNIT_ATTENTION:
            return failure.sense
        attention(failure.sense)
    return failure


async def examine(session: Session, lun: int, timeout_s: float) -> Findings:
    """Find out which disk this is.

    Raises:
        InitiatorError: it is no disk, or does not say.
    """
    disk = Disk(session, lun)
    found = await disk.inquiry(timeout_s=timeout_s)
    if found.no_disk:
        raise InitiatorError(f"LUN {lun} {found.no_disk}", where=session.where)
    listed = await disk.vpd(0x00, timeout_s=timeout_s)
    pages = listed.pages if isinstance(listed, SupportedPages) else ()
    identity, group, serial = "", None, ""
    if 0x83 in pages:
        page = await disk.vpd(0x83, timeout_s=timeout_s)
        assert isinstance(page, DeviceIdentification)
        identity = page.unit_identity
        groups = [d for d in page.designators if (d.kind, d.association) == (_PORT_GROUP_DESIGNATOR, _OF_PORT)]
        group = int.from_bytes(groups[0].value[2:4], "big") if groups and len(groups[0].value) == 4 else None
    if 0x80 in pages:
        number = await disk.vpd(0x80, timeout_s=timeout_s)
        assert isinstance(number, UnitSerialNumber)
        serial = number.serial
    return Findings(
        identity=identity,
        serial=serial,
        size_bytes=await size_of(session, lun, timeout_s),
        port_group=group if found.tpgs else None,
        explicit=bool(found.tpgs & 2),
    )


async def size_of(session: Session, lun: int, timeout_s: float) -> int | None:
    """Give the bytes of the disk; None where the path does not say.

    Raises:
        InitiatorError: anything but a refusal.
    """
    disk = Disk(session, lun)
    try:
        return (await disk.read_capacity(timeout_s=timeout_s)).size_bytes
    except CommandFailed:
        return None


async def access_of(
    session: Session, lun: int, findings: Findings, ready: Sense | CommandFailed | None, timeout_s: float
) -> Access:
    """Find out whether a path takes commands: by what :func:`touch` gave just before, and by REPORT TARGET PORT GROUPS
    where the device has groups.

    Raises:
        CommandFailed: the LUN is no longer there.
        TimedOut, SessionLost, SessionClosed.
    """
    refused = None
    if isinstance(ready, Sense):
        if (ready.asc, ready.ascq) == _LUN_NOT_SUPPORTED:
            raise CommandFailed("TEST UNIT READY", CHECK_CONDITION, ready)
        refused = port_groups.state_refused_by(ready)
        if refused is None and ready.key is SenseKey.NOT_READY:
            return Access(AccessState.UNAVAILABLE, why=str(ready))
    reported = await _reported(session, lun, findings, timeout_s)
    if refused is not None and (reported is None or reported.state.active):
        # What it does goes before what it says.
        return Access(refused, False if reported is None else reported.preferred, why=refused.words)
    return reported or Access(AccessState.ACTIVE_OPTIMIZED)


async def activate(session: Session, lun: int, group: int, timeout_s: float) -> None:
    """Ask the target to make a port group active/optimized (SET TARGET PORT GROUPS).

    Raises:
        CommandFailed: it does not.
        TimedOut, SessionLost, SessionClosed.
    """
    data = target_ports.set_list({group: AccessState.ACTIVE_OPTIMIZED})
    command = target_ports.set_cdb(len(data))
    await Disk(session, lun).command(command, data_out=data, timeout_s=timeout_s)


async def _reported(session: Session, lun: int, findings: Findings, timeout_s: float) -> Access | None:
    """Ask for the state of the path's group; None where the device does not say."""
    if findings.port_group is None:
        return None
    command = target_ports.report_cdb(_GROUPS_BYTES)
    for _ in range(UNIT_ATTENTIONS + 1):
        try:
            data = await Disk(session, lun).command(command, data_in_bytes=_GROUPS_BYTES, timeout_s=timeout_s)
            break
        except CommandFailed as failed:
            if failed.sense_key != SenseKey.UNIT_ATTENTION:
                return None
    else:
        return None
    with suppress(MalformedAnswer):
        for group in target_ports.parse(data).groups:
            if group.tag == findings.port_group:
                why = "" if group.state.active else f"its port group is {group.state.words}"
                return Access(group.state, group.preferred, why)
    return None
