"""A disk over several paths: from URLs, or from one URL and what its target says of its portals."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from initiator.disk import Disk
from initiator.engine.discovery import DiscoveredTarget, TargetAddress
from initiator.errors import InitiatorError
from initiator.multipath import Multipath
from initiator.multipath_options import MultipathOptions, PathListener
from initiator.options import SessionOptions
from initiator.path import Addresses, DiskPath, Opener
from initiator.scsi.sense import Sense
from initiator.url import IscsiUrl, Portal

Discover = Callable[[IscsiUrl], Coroutine[Deferred[Any], Any, tuple[list[DiscoveredTarget], Portal]]]
"""Asks the portal of a URL for its targets; gives them, and the address that was connected to."""

_log = Logger()


async def find_places(places: Sequence[IscsiUrl], discover: Discover) -> list[IscsiUrl]:
    """Add the portals at which the targets of these URLs are, as discovery at each says. A portal that does not answer
    it, and one that discovery does not name, is kept as it is."""
    found: dict[IscsiUrl, None] = {}
    for place in places:
        try:
            targets, peer = await discover(place)
        except InitiatorError as error:
            _log.info("{place}: discovery: {error}", place=str(place), error=str(error))
            targets, peer = [], place.portal
        portals = [address.portal for address in addresses_in(targets, place.target_name)]
        if not {peer, place.portal} & {*portals}:
            found[place] = None  # a name, or an address that the target does not know of
        found |= {replace(place, portal=portal): None for portal in portals}
    return list(found)


def addresses_in(targets: Sequence[DiscoveredTarget], name: str) -> list[TargetAddress]:
    """Give the portals of one target."""
    return [address for target in targets if target.name == name for address in target.addresses]


async def open_disk(
    places: Sequence[IscsiUrl],
    opener: Opener,
    addresses: Addresses,
    *,
    isid: Callable[[], bytes],
    reactor: Any,
    options: SessionOptions,
    how: MultipathOptions,
    listener: PathListener | None,
) -> Disk:
    """Open the disk at the end of several paths. Closing it logs out of them all.

    Raises:
        DifferentDisk: two paths lead to different disks.
        NoPath: none leads to the disk.
        CommandFailed: it is not ready.
    """
    road = await Multipath.open(
        places, opener, addresses, isid=isid, reactor=reactor, options=options, how=how, listener=listener
    )
    try:
        disk = await Disk.open(road, places[0].lun)
    except BaseException:
        road.abort()
        raise

    def pass_on(_path: DiskPath, found: Sense) -> None:
        for listener in disk.on_unit_attention:
            listener(found)

    # What a check of a path clears no command of the caller is told of any more.
    road.group.on_attention = pass_on
    return disk
