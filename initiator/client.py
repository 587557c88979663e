"""The ways in: connect to a disk, log in to a target, discover targets."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from csvd.iscsi import text
from csvd.iscsi.chap import Credentials
from csvd.iscsi.names import check_iscsi_name
from initiator.dial import dial
from initiator.disk import Disk
from initiator.engine.connection import InitiatorConnection
from initiator.engine.discovery import ANSWER_BYTES, DiscoveredTarget, parse_address, parse_targets
from initiator.engine.login import LoginSettings
from initiator.engine.session import SessionState
from initiator.errors import AuthenticationFailed, LoginRedirected
from initiator.link import Link
from initiator.more_links import CHALLENGE_BYTES, MOST_CONNECTIONS, join_more
from initiator.session import Session, SessionOptions
from initiator.url import IscsiUrl, Portal, parse_portal, parse_url

NAME_PREFIX: Final = "iqn.2026-11.org.csvd:initiator."
MAX_REDIRECTS: Final = 4
DEFAULTS: Final = SessionOptions()


def default_initiator_name() -> str:
    """Give the name that this host's sessions have when the caller names none: the host name stands in it."""
    host = re.sub(r"[^a-z0-9.-]+", "-", socket.gethostname().lower()).strip("-.")
    return NAME_PREFIX + (host or "host")[:150]


def new_isid(entropy: Callable[[int], bytes] = os.urandom) -> bytes:
    """Make an initiator session ID of the random kind (RFC 7143 section 11.12.5): two sessions never reinstate one
    another."""
    return b"\x80" + entropy(5)


async def connect(
    url: str | IscsiUrl,
    *,
    reactor: Any,
    credentials: Credentials | None = None,
    target_credentials: Credentials | None = None,
    initiator_name: str = "",
    timeout_s: float | None = None,
    options: SessionOptions = DEFAULTS,
) -> Disk:
    """Log in to the target of a URL and open its LUN. Closing the disk logs out.

    Args:
        url: ``iscsi://[user[%secret]@]host[:port]/target-name[/lun]``.
        reactor: any reactor with addReader and addWriter.
        credentials: CHAP user and secret; they go before those of the URL.
        target_credentials: by what the target has to prove itself (mutual CHAP).
        initiator_name: what we are called; by default :func:`default_initiator_name`.
        timeout_s: the deadline of the login and of every call that names none; goes before that of ``options``.
        options: queue depth, keepalive and what is proposed to the target.

    Raises:
        UrlError: the URL is malformed, or names a user without a secret.
        ConnectFailed, LoginRefused (AuthenticationFailed), ProtocolViolation, TimedOut, SessionLost: no session.
        CommandFailed: there is no such LUN, or it is not ready.

    >>> from initiator import connect
    >>> async def first_block(reactor):
    ...     async with await connect("iscsi://127.0.0.1:3260/iqn.2026-11.example:disk/0", reactor=reactor) as disk:
    ...         return await disk.read(0, 1)
    """
    place = parse_url(url) if isinstance(url, str) else url
    session = await login(
        place,
        reactor=reactor,
        credentials=credentials,
        target_credentials=target_credentials,
        initiator_name=initiator_name,
        timeout_s=timeout_s,
        options=options,
    )
    try:
        return await Disk.open(session, place.lun)
    except BaseException:
        await session.close()
        raise


async def login(
    url: str | IscsiUrl,
    *,
    reactor: Any,
    credentials: Credentials | None = None,
    target_credentials: Credentials | None = None,
    initiator_name: str = "",
    timeout_s: float | None = None,
    options: SessionOptions = DEFAULTS,
    isid: bytes = b"",
) -> Session:
    """Log in to the target of a URL; its LUNs are opened by :meth:`Disk.open`. Takes and raises what connect does.

    ``isid`` is the initiator session ID, see :class:`LoginSettings`; by default one by chance.
    """
    place = parse_url(url) if isinstance(url, str) else url
    if timeout_s is not None:
        options = replace(options, timeout_s=timeout_s)
    settings = LoginSettings(
        initiator_name=check_iscsi_name(initiator_name or default_initiator_name()),
        target_name=place.target_name,
        credentials=_credentials(place, credentials),
        target_credentials=target_credentials,
        target_challenge=os.urandom(CHALLENGE_BYTES),
        offer=options.offer,
        isid=isid,
    )
    return await _open(place.portal, settings, options, reactor)


async def discover(
    portal: str | Portal,
    *,
    reactor: Any,
    credentials: Credentials | None = None,
    target_credentials: Credentials | None = None,
    initiator_name: str = "",
    timeout_s: float | None = None,
    options: SessionOptions = DEFAULTS,
) -> list[DiscoveredTarget]:
    """Ask a portal for its targets, by SendTargets in a discovery session. Raises what connect does."""
    if timeout_s is not None:
        options = replace(options, timeout_s=timeout_s)
    settings = LoginSettings(
        initiator_name=check_iscsi_name(initiator_name or default_initiator_name()),
        credentials=credentials,
        target_credentials=target_credentials,
        target_challenge=os.urandom(CHALLENGE_BYTES),
        offer=options.offer,
    )
    place = parse_portal(portal) if isinstance(portal, str) else portal
    session = await _open(place, settings, options, reactor)
    try:
        answer = await session.text(text.build([("SendTargets", "All")]), limit_bytes=ANSWER_BYTES)
    finally:
        await session.close()
    return parse_targets(answer)


def _credentials(place: IscsiUrl, given: Credentials | None) -> Credentials | None:
    found = given or place.credentials
    if found is None and place.user:
        raise AuthenticationFailed(f"there is no secret for the user {place.user}", hint="give credentials with it")
    return found


async def _open(portal: Portal, settings: LoginSettings, options: SessionOptions, reactor: Any) -> Session:
    """Log in, and follow the target where it redirects us (RFC 7143 section 11.13.5, status class 1)."""
    for _ in range(MAX_REDIRECTS):
        try:
            return await _open_here(portal, settings, options, reactor)
        except LoginRedirected as moved:
            portal = parse_address(moved.address).portal
    return await _open_here(portal, settings, options, reactor)


async def _open_here(portal: Portal, settings: LoginSettings, options: SessionOptions, reactor: Any) -> Session:
    sock = await dial(portal, reactor=reactor, timeout_s=options.timeout_s)
    session = Session(portal, settings.target_name, options, reactor=reactor)
    connections = min(max(options.connections, 1), MOST_CONNECTIONS)
    settings = replace(
        settings,
        target_challenge=os.urandom(CHALLENGE_BYTES),  # fresh at every portal
        offer=replace(settings.offer, max_connections=connections),
    )
    engine = InitiatorConnection(SessionState(settings.isid or new_isid()), settings)
    await session.attach(engine, Link(sock, engine, session, reactor=reactor))
    if connections > 1 and not settings.discovery:
        try:
            await join_more(session, settings, reactor)
        except BaseException:
            session.abort()
            raise
    return session
