"""The ways in: connect to a disk, log in to a target, discover targets."""

from __future__ import annotations

import hashlib
import os
import re
import socket
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any, Final, TypedDict, TypeVar, Unpack, overload

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as TookTooLong

from csvd.iscsi import text
from csvd.iscsi.chap import Credentials
from csvd.iscsi.names import check_iscsi_name
from initiator import secrets
from initiator.asyncio_face import AsyncioDisk, AsyncioSession
from initiator.deferred_await import in_task
from initiator.dial import dial
from initiator.disk import Disk
from initiator.engine.connection import InitiatorConnection
from initiator.engine.discovery import ANSWER_BYTES, DiscoveredTarget, TargetAddress, parse_address, parse_targets
from initiator.engine.login import ALGORITHMS, LoginSettings
from initiator.engine.session import SessionState
from initiator.errors import ConnectFailed, InitiatorError, LoginRedirected, TimedOut, UrlError
from initiator.link import Link
from initiator.loop_reactor import LoopReactor
from initiator.more_links import CHALLENGE_BYTES, MOST_CONNECTIONS, join_more
from initiator.multipath_options import DEFAULT_OPTIONS, MultipathOptions, PathListener
from initiator.opening import Opening
from initiator.options import SessionOptions
from initiator.recovery import Recovery
from initiator.road import Road
from initiator.scsi.inquiry import UnitSerialNumber
from initiator.secrets import SecretPath
from initiator.session import Session
from initiator.several import addresses_in, find_places, open_disk
from initiator.url import IscsiUrl, Portal, parse_portal, parse_portal_url, parse_url

NAME_PREFIX: Final = "iqn.2026-11.org.csvd:initiator."
MAX_REDIRECTS: Final = 4
DEFAULTS: Final = SessionOptions()

_Result = TypeVar("_Result")


def default_initiator_name() -> str:
    """Give the name that this host's sessions have when the caller names none: the host name stands in it."""
    host = re.sub(r"[^a-z0-9.-]+", "-", socket.gethostname().lower()).strip("-.")
    return NAME_PREFIX + (host or "host")[:150]


def new_isid(entropy: Callable[[int], bytes] = os.urandom) -> bytes:
    """Make an initiator session ID of the random kind (RFC 7143 section 11.12.5): two sessions never reinstate one
    another."""
    return b"\x80" + entropy(5)


def isid_of(name: str) -> bytes:
    """Make an initiator session ID of the random kind out of a name, the same every time: a session reinstates the one
    before of that name, and a target that remembers initiators by name and ISID knows it again."""
    return new_isid(lambda length: hashlib.sha256(name.encode()).digest()[:length])


class Login(TypedDict, total=False):
    """How to log in: what :func:`connect`, :func:`login` and :func:`discover` take beside the address.

    Who we are (CHAP) is settled in this order: ``credentials``; ``secret_file``, with ``user`` or the user of the URL;
    the URL; the environment (``LIBISCSI_CHAP_USERNAME``, ``LIBISCSI_CHAP_PASSWORD``, as libiscsi has them). By what the
    target has to prove itself (mutual CHAP) likewise, with the ``target_`` names. The secret in a file is its bytes
    without a line end; nobody else may read the file.
    """

    credentials: Credentials | None
    user: str
    secret_file: SecretPath | None
    target_credentials: Credentials | None
    target_user: str
    target_secret_file: SecretPath | None
    initiator_name: str
    """What we are called; by default that of the URL, or :func:`default_initiator_name`."""
    timeout_s: float | None
    """The deadline of the login and of every call that names none; goes before that of ``options``."""
    options: SessionOptions
    """Queue depth, keepalive and what is proposed to the target."""
    recover: bool
    """Of :func:`connect`: whether a session that is lost is followed by another (:class:`Recovery`); it is, unless this
    is False."""
    isid: bytes
    """The initiator session ID, see :class:`LoginSettings`; by default one by chance."""


class Connect(Login, total=False):
    """What :func:`connect` takes beside the address."""

    multipath: bool | MultipathOptions
    """Whether the disk is reached over several paths, and how they are used; more than one URL means it, too."""
    on_path: PathListener | None
    """Told of every change of a path."""


Places = str | IscsiUrl | Sequence[str | IscsiUrl]


@overload
def connect(url: Places, **how: Unpack[Connect]) -> Opening[AsyncioDisk]: ...
@overload
def connect(url: Places, *, reactor: Any, **how: Unpack[Connect]) -> Opening[Disk]: ...
def connect(url: Places, *, reactor: Any = None, **how: Unpack[Connect]) -> Opening[Disk] | Opening[AsyncioDisk]:
    """Log in to the target of a URL and open its LUN. Closing the disk logs out.

    Without ``reactor`` it is for asyncio: it runs on the running loop and gives an :class:`AsyncioDisk`. With one, any
    Twisted reactor with addReader and addWriter, it gives a :class:`Disk`. What it gives is awaited, or entered by
    ``async with``.

    Args:
        url: ``iscsi://[user[%secret]@]host[:port]/target-name[/lun][?options]``; see :func:`parse_url`. Several are
            paths to one disk: :class:`initiator.multipath.Multipath`.
        reactor: a Twisted reactor; None for asyncio.
        how: see :class:`Login` and :class:`Connect`.

    Raises:
        UrlError: the URL is malformed.
        ConfigError: a secret can not be read, or a user and a secret do not go together.
        ConnectFailed, LoginRefused (AuthenticationFailed), ProtocolViolation, TimedOut, SessionLost: no session.
        NoPath, DifferentDisk: of several paths none leads to the disk, or two lead to different ones.
        CommandFailed: there is no such LUN, or it is not ready.

    >>> from initiator import connect
    >>> async def first_block():
    ...     async with connect("iscsi://127.0.0.1:3260/iqn.2026-11.example:disk/0") as disk:
    ...         return await disk.read(0, 1)
    """
    if reactor is None:
        return Opening(_connect_in_loop(url, how))
    return Opening(_connect(url, reactor, how))


@overload
def login(url: str | IscsiUrl, **how: Unpack[Login]) -> Opening[AsyncioSession]: ...
@overload
def login(url: str | IscsiUrl, *, reactor: Any, **how: Unpack[Login]) -> Opening[Session]: ...
def login(
    url: str | IscsiUrl, *, reactor: Any = None, **how: Unpack[Login]
) -> Opening[Session] | Opening[AsyncioSession]:
    """Log in to the target of a URL; its LUNs are opened by :meth:`Disk.open`, or :meth:`AsyncioDisk.open`. Takes and
    raises what :func:`connect` does."""
    if reactor is None:
        return Opening(_login_in_loop(url, how))
    return Opening(_login(url, reactor, how))


def stay_logged_in(url: str | IscsiUrl, *, reactor: Any, **how: Unpack[Login]) -> Opening[Recovery]:
    """Log in to the target of a URL, again and again when the session is lost; its LUNs are opened by
    :meth:`Disk.open`, and watched over by :meth:`Recovery.know`. Takes and raises what :func:`connect` does."""
    return Opening(_stay_logged_in(parse_url(url) if isinstance(url, str) else url, reactor, how))


async def discover(
    portal: str | Portal | IscsiUrl, *, target_name: str = "", reactor: Any = None, **how: Unpack[Login]
) -> list[DiscoveredTarget]:
    """Ask a portal for its targets, by SendTargets in a discovery session; without ``reactor`` for asyncio.

    Args:
        portal: ``host[:port]``, or a URL as :func:`connect` takes it, in which target and LUN may be missing.
        target_name: ask for the addresses of this target only; by default that of the URL, or all targets.
        reactor: a Twisted reactor; None for asyncio.
        how: see :class:`Login`.

    Raises what :func:`connect` does.
    """
    if isinstance(portal, str):
        place = parse_portal_url(portal) if "://" in portal else IscsiUrl(parse_portal(portal), "")
    else:
        place = IscsiUrl(portal, "") if isinstance(portal, Portal) else portal
    if target_name:
        place = replace(place, target_name=check_iscsi_name(target_name))
    if reactor is None:
        return await in_task(_discover(place, LoopReactor(), how))
    return await _discover(place, reactor, how)


async def _connect_in_loop(url: Places, how: Connect) -> AsyncioDisk:
    return AsyncioDisk(await in_task(_connect(url, LoopReactor(), how)))


async def _login_in_loop(url: str | IscsiUrl, how: Login) -> AsyncioSession:
    return AsyncioSession(await in_task(_login(url, LoopReactor(), how)))


async def _connect(url: Places, reactor: Any, how: Connect) -> Disk:
    urls = [url] if isinstance(url, str | IscsiUrl) else url
    places = [parse_url(each) if isinstance(each, str) else each for each in urls]
    if len(places) != 1 or how.get("multipath"):
        return await _connect_several(places, reactor, how)
    (place,) = places
    settings, options = _settle(place, how)

    async def opened() -> Disk:
        recovery = await _recovering(place, settings, options, reactor) if how.get("recover", True) else None
        road: Road = recovery or await _open(place.portal, settings, options, reactor)
        try:
            disk = await Disk.open(road, place.lun)
            if place.serial:
                await _check_serial(disk, place.serial)
            if recovery is not None:
                await recovery.know(place.lun)
        except CancelledError:
            road.abort()
            raise
        except BaseException:
            await road.close()
            raise
        return disk

    return await _in_time(opened(), place, options.timeout_s, reactor)


async def _check_serial(disk: Disk, serial: str) -> None:
    page = await disk.vpd(0x80)
    found = page.serial.strip() if isinstance(page, UnitSerialNumber) else ""
    if found != serial:
        raise InitiatorError(f"this LUN has the serial number {found!r}, not {serial!r}", where=disk.road.where)


async def _connect_several(places: list[IscsiUrl], reactor: Any, how: Connect) -> Disk:
    if not places:
        raise UrlError("there is no URL")
    multipath = how.get("multipath", False)
    paths = multipath if isinstance(multipath, MultipathOptions) else DEFAULT_OPTIONS
    settled = {place: _settle(place, how) for place in places}
    _, options = settled[places[0]]
    short = replace(options, timeout_s=min(paths.login_timeout_s, options.timeout_s))

    async def discover_at(place: IscsiUrl) -> tuple[list[DiscoveredTarget], Portal]:
        login, _ = settled.get(place) or _settle(place, how)
        session = await _open(place.portal, replace(login, target_name="", isid=b""), short, reactor)
        return await _targets(session, place.target_name), session.peer or place.portal

    async def open_path(place: IscsiUrl, isid: bytes) -> Session:
        login, _ = settled.get(place) or _settle(place, how)
        return await _open(place.portal, replace(login, isid=isid), short, reactor)

    async def addresses_at(place: IscsiUrl) -> frozenset[TargetAddress]:
        targets, _ = await discover_at(place)
        return frozenset(addresses_in(targets, place.target_name))

    if paths.discover or (paths.discover is None and len(places) == 1):
        places = await find_places(places, discover_at)
    disk = await open_disk(
        places,
        open_path,
        addresses_at,
        isid=new_isid,
        reactor=reactor,
        options=options,
        how=paths,
        listener=how.get("on_path"),
    )
    try:
        for serial in {place.serial for place in places if place.serial}:
            await _check_serial(disk, serial)
    except BaseException:
        await disk.close()
        raise
    return disk


async def _login(url: str | IscsiUrl, reactor: Any, how: Login) -> Session:
    place = parse_url(url) if isinstance(url, str) else url
    settings, options = _settle(place, how)
    return await _in_time(_open(place.portal, settings, options, reactor), place, options.timeout_s, reactor)


async def _stay_logged_in(place: IscsiUrl, reactor: Any, how: Login) -> Recovery:
    settings, options = _settle(place, how)
    return await _in_time(_recovering(place, settings, options, reactor), place, options.timeout_s, reactor)


async def _recovering(place: IscsiUrl, settings: LoginSettings, options: SessionOptions, reactor: Any) -> Recovery:
    # One ISID for all sessions of the road: each login ends what is left of the session before.
    settings = replace(settings, isid=settings.isid or new_isid())

    def log_in(deadline_s: float) -> Coroutine[Deferred[Any], Any, Session]:
        # Always at the first portal: where that sent us on to (status 0101h) was only for that time.
        left_s = max(deadline_s - reactor.seconds(), 0.001)
        work = _open(place.portal, settings, options, reactor, timeout_s=left_s)
        return _in_time(work, place, left_s, reactor)

    return Recovery(await _open(place.portal, settings, options, reactor), log_in)


async def _discover(place: IscsiUrl, reactor: Any, how: Login) -> list[DiscoveredTarget]:
    settings, options = _settle(replace(place, target_name=""), how)

    async def told() -> list[DiscoveredTarget]:
        return await _targets(await _open(place.portal, settings, options, reactor), place.target_name)

    return await _in_time(told(), place, options.timeout_s, reactor)


async def _targets(session: Session, name: str) -> list[DiscoveredTarget]:
    try:
        asked = text.build([("SendTargets", name or "All")])
        answer = await session.text(asked, limit_bytes=ANSWER_BYTES)
    except CancelledError:
        session.abort()
        raise
    except BaseException:
        await session.close()
        raise
    await session.close()
    return parse_targets(answer)


async def _in_time(
    work: Coroutine[Deferred[Any], Any, _Result], place: IscsiUrl, timeout_s: float, reactor: Any
) -> _Result:
    """Give the result of what takes several steps, and all of them only the time of one call."""
    running = Deferred.fromCoroutine(work).addTimeout(timeout_s, reactor)
    try:
        return await running
    except TookTooLong as late:
        what = f"the login and what belongs to it took more than {timeout_s:g} s"
        raise TimedOut(what, where=str(place)) from late


def _settle(place: IscsiUrl, how: Login) -> tuple[LoginSettings, SessionOptions]:
    """Settle what the caller gives, what the URL says and what is the default."""
    options, timeout_s = how.get("options", DEFAULTS), how.get("timeout_s")
    if timeout_s is not None:
        options = replace(options, timeout_s=timeout_s)
    ours = how.get("credentials") or secrets.our_credentials(
        place, user=how.get("user", ""), secret_file=how.get("secret_file")
    )
    settings = LoginSettings(
        initiator_name=check_iscsi_name(how.get("initiator_name") or place.initiator_name or default_initiator_name()),
        target_name=place.target_name,
        credentials=ours,
        target_credentials=how.get("target_credentials")
        or secrets.target_credentials(
            place, user=how.get("target_user", ""), secret_file=how.get("target_secret_file"), proved=ours is not None
        ),
        target_challenge=os.urandom(CHALLENGE_BYTES),
        algorithms=place.algorithms or ALGORITHMS,
        offer=replace(
            options.offer,
            header_digest=place.header_digest or options.offer.header_digest,
            data_digest=place.data_digest or options.offer.data_digest,
        ),
        isid=how.get("isid", b""),
    )
    return settings, options


async def _open(
    portal: Portal, settings: LoginSettings, options: SessionOptions, reactor: Any, *, timeout_s: float | None = None
) -> Session:
    """Log in, and follow the target where it redirects us (RFC 7143 section 11.13.5, status class 1)."""
    limit_s = options.timeout_s if timeout_s is None else timeout_s
    way = [portal]
    while True:
        try:
            return await _open_here(way[-1], settings, options, reactor, limit_s)
        except LoginRedirected as moved:
            portal = parse_address(moved.address).portal
            if portal in way or len(way) > MAX_REDIRECTS:
                what = "the target redirects in a circle" if portal in way else "the target redirects too often"
                why = " -> ".join(map(str, [*way, portal]))
                raise LoginRedirected(moved.status, moved.address, what=what, why=why) from moved
            way.append(portal)


async def _open_here(
    portal: Portal, settings: LoginSettings, options: SessionOptions, reactor: Any, limit_s: float
) -> Session:
    sock = await dial(portal, reactor=reactor, timeout_s=limit_s)
    session = Session(portal, settings.target_name, options, reactor=reactor)
    try:
        session.peer = Portal(*sock.getpeername()[:2])
    except OSError as error:
        # Reset as soon as it was made: the target ended just now.
        sock.close()
        raise ConnectFailed("the connection broke at once", where=str(portal), why=error.strerror or "") from error
    connections = min(max(options.connections, 1), MOST_CONNECTIONS)
    settings = replace(
        settings,
        target_challenge=os.urandom(CHALLENGE_BYTES),  # fresh at every portal
        offer=replace(settings.offer, max_connections=connections),
    )
    engine = InitiatorConnection(SessionState(settings.isid or new_isid()), settings)
    await session.attach(engine, Link(sock, engine, session, reactor=reactor), timeout_s=limit_s)
    if connections > 1 and not settings.discovery:
        try:
            await join_more(session, settings, reactor)
        except BaseException:
            session.abort()
            raise
    return session
