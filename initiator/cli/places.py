"""The ends of a copy or a comparison on the command line: files, devices, pipes, LUNs."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import click

from initiator import client
from initiator.cli import options
from initiator.cli.login import Login, login_options
from initiator.images.end import Identity, SourceEnd, TargetEnd
from initiator.images.file import open_source, open_target
from initiator.images.lun import LunEnd
from initiator.images.stream import StreamEnd
from initiator.url import IscsiUrl

Place = IscsiUrl | str
"""The URL of a LUN, the path of a file or a device, or - for a pipe."""

_Command = TypeVar("_Command", bound=Callable[..., Any])


def place(value: str) -> Place:
    """Kind of argument: a path, - or the URL of a LUN."""
    if "://" in value and not os.path.exists(value):
        return options.url(value)
    if not value:
        raise click.BadParameter("a path, a URL, or - for a pipe")
    return value


@dataclass
class Places:
    """Opens the ends; what the options say of sessions holds for both of them."""

    login: Login
    second_user: str | None
    second_secret_file: Path | None
    _how: dict[str, client.Login] = field(default_factory=dict)

    def settle(self, first: Place, second: Place, *, depth: int) -> None:
        """Read the secrets, before anything is opened.

        Raises:
            click.UsageError, Failed: as :meth:`Chap.settle`.
        """
        login = replace(self.login, session=replace(self.login.session, queue_depth=depth))
        if isinstance(first, IscsiUrl):
            self._how["first"] = login.of(first.user)
        if not isinstance(second, IscsiUrl):
            return
        if self.second_secret_file is not None or self.second_user is not None:
            chap = replace(login.chap, user=self.second_user, secret_file=self.second_secret_file)
            login = replace(login, chap=chap)
        self._how["second"] = login.of(second.user)

    async def open_source(self, reactor: Any, where: Place, *, which: str = "first") -> SourceEnd:
        """Open what is read."""
        if isinstance(where, IscsiUrl):
            return await self._open_lun(reactor, where, which)
        return StreamEnd("stdin", sys.stdin.fileno(), reactor) if where == "-" else open_source(where, reactor)

    async def open_target(
        self, reactor: Any, where: Place, *, size: int, keep: bool, avoid: Identity | None
    ) -> TargetEnd:
        """Open what is written: see :func:`initiator.images.file.open_target`."""
        if isinstance(where, IscsiUrl):
            return await self._open_lun(reactor, where, "second")
        if where == "-":
            return StreamEnd("stdout", sys.stdout.fileno(), reactor)
        return open_target(where, reactor, size_bytes=size, keep=keep, avoid=avoid)

    async def _open_lun(self, reactor: Any, where: IscsiUrl, which: str) -> LunEnd:
        disk = await client.connect(where, reactor=reactor, **self._how[which])
        try:
            return await LunEnd.open(str(where), disk)
        except BaseException:
            await disk.close()
            raise


def places_options(command: _Command) -> Callable[..., Any]:
    """Add the options of sessions, and those of CHAP of a second LUN; they come as one ``places``."""

    @click.option("--to-chap-user", metavar="USER", help="The CHAP user of the second LUN, if it is another.")
    @click.option(
        "--to-chap-secret-file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="The secret of that user, in a file that only you may read.",
    )
    @functools.wraps(command)
    def run(
        *args: Any,
        to_chap_user: str | None,
        to_chap_secret_file: Path | None,
        login: Login,
        **others: Any,
    ) -> Any:
        return command(*args, places=Places(login, to_chap_user, to_chap_secret_file), **others)

    return login_options(run)
