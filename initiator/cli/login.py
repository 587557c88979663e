"""The options of a login as one value, and what is done with it."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from initiator import client
from initiator.cli import options
from initiator.cli.options import Chap
from initiator.cli.path_options import PathChoice
from initiator.disk import Disk
from initiator.engine.discovery import DiscoveredTarget
from initiator.options import SessionOptions
from initiator.session import Session
from initiator.url import IscsiUrl


@dataclass(frozen=True, slots=True)
class Login:
    """What the options say of a login."""

    chap: Chap
    initiator_name: str
    options: SessionOptions
    timeout_s: float
    isid: bytes = b""

    @property
    def own_name(self) -> str:
        """What we are called."""
        return self.initiator_name or client.default_initiator_name()

    def with_lasting_isid(self, isid: bytes | None) -> Login:
        """Give the same login with an ISID that is the same at every call: persistent reservations know a session's
        initiator by its name and ISID."""
        return replace(self, isid=isid or b"\x80" + hashlib.sha256(self.own_name.encode()).digest()[:5])

    async def connect(self, reactor: Any, url: IscsiUrl, paths: PathChoice | None = None) -> Disk:
        """Open the disk of a URL, over several paths where these are chosen."""
        if paths is not None and paths.how():
            arguments = self._arguments(reactor, url.user)
            disk: Disk = await client.connect(paths.to(url), multipath=paths.how(), **arguments)
            return disk
        session = await self.session(reactor, url)
        try:
            return await Disk.open(session, url.lun)
        except BaseException:
            await session.close()
            raise

    async def session(self, reactor: Any, url: IscsiUrl) -> Session:
        """Log in to the target of a URL."""
        session: Session = await client.login(url, isid=self.isid, **self._arguments(reactor, url.user))
        return session

    async def discover(self, reactor: Any, place: IscsiUrl) -> list[DiscoveredTarget]:
        """Ask a portal for its targets."""
        return await client.discover(place, **self._arguments(reactor, place.user))

    def _arguments(self, reactor: Any, url_user: str) -> dict[str, Any]:
        credentials, target_credentials = self.chap.settle(url_user)
        return {
            "reactor": reactor,
            "credentials": credentials,
            "target_credentials": target_credentials,
            "initiator_name": self.initiator_name,
            "timeout_s": self.timeout_s,
            "options": self.options,
        }


def login_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a login; they come as one ``login``."""

    @functools.wraps(command)
    def run(
        *args: Any,
        chap: Chap,
        initiator_name: str | None,
        session: SessionOptions,
        timeout_s: float,
        **others: Any,
    ) -> Any:
        login = Login(chap, initiator_name or "", session, timeout_s)
        return command(*args, login=login, **others)

    return options.session_options(run)
