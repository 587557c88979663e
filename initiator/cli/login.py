"""The options of a login: who we are, who the target has to be, and how the session behaves, as one value."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import click

from csvd.errors import ConfigError
from csvd.iscsi.chap import Credentials
from csvd.iscsi.digests import CRC32C
from csvd.iscsi.keys import OFFER
from initiator import client
from initiator.cli import options
from initiator.cli.runtime import Failed
from initiator.more_links import MOST_CONNECTIONS
from initiator.options import SessionOptions
from initiator.secrets import chap_secret


@dataclass(frozen=True, slots=True)
class Chap:
    """What the options say of CHAP: who we are, and who the target has to be."""

    user: str | None
    secret_file: Path | None
    target_user: str | None
    target_secret_file: Path | None

    def settle(self, url_user: str = "") -> tuple[Credentials | None, Credentials | None]:
        """Give our credentials and the target's; our options go before the user of the URL.

        Raises:
            click.UsageError: a user without a secret, a secret without a user, or a target to be proved by itself.
            Failed: a secret can not be read.
        """
        ours = credentials_of(self.user, self.secret_file, url_user)
        if self.target_user is None and self.target_secret_file is None:
            return ours, None
        if self.target_user is None or self.target_secret_file is None:
            raise click.UsageError("--chap-target-user and --chap-target-secret-file go together")
        if self.user is None and not url_user:
            raise click.UsageError("a target proves itself only to who proves himself: give --chap-user, too")
        try:
            return ours, Credentials(self.target_user, chap_secret(self.target_secret_file))
        except ConfigError as error:
            raise Failed(str(error)) from error


@dataclass(frozen=True, slots=True)
class Login:
    """What the options say of a login."""

    chap: Chap
    initiator_name: str
    session: SessionOptions
    timeout_s: float
    isid: bytes = b""

    def with_lasting_isid(self, isid: bytes | None) -> Login:
        """Give the same login with an ISID that is the same at every call: persistent reservations know a session's
        initiator by its name and ISID."""
        name = self.initiator_name or client.default_initiator_name()
        return replace(self, isid=isid or client.isid_of(name))

    def of(self, url_user: str, *, recover: bool = True) -> client.Login:
        """Give what the calls of the client take. It reads the secrets: asked for before anything is sent, it finds
        wrong usage.

        Args:
            url_user: the user that the URL names, if it does.
            recover: whether a session that is lost is followed by another.

        Raises:
            click.UsageError, Failed: as :meth:`Chap.settle`.
        """
        credentials, target_credentials = self.chap.settle(url_user)
        return client.Login(
            credentials=credentials,
            target_credentials=target_credentials,
            initiator_name=self.initiator_name,
            timeout_s=self.timeout_s,
            options=self.session,
            isid=self.isid,
            recover=recover,
        )


_LOGIN: Final = (
    click.option("--chap-user", metavar="USER", help="Prove by CHAP to be this user."),
    click.option(
        "--chap-secret-file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="The user's secret, in a file that only you may read.",
    ),
    click.option(
        "--chap-target-user",
        metavar="USER",
        help="Have the target prove to be this user (mutual CHAP).",
    ),
    click.option(
        "--chap-target-secret-file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="The target's secret, in a file that only you may read.",
    ),
    click.option(
        "--initiator-name",
        type=options.iscsi_name,
        metavar="NAME",
        help="What we are called.  [default: a name made of the host's]",
    ),
    click.option(
        "--header-digest",
        is_flag=True,
        help="Demand CRC32C digests of headers.",
    ),
    click.option(
        "--data-digest",
        is_flag=True,
        help="Demand CRC32C digests of data.",
    ),
    click.option(
        "--timeout",
        "timeout_s",
        type=click.FloatRange(min=0, min_open=True),
        default=30.0,
        show_default=True,
        metavar="SECONDS",
        help="How long the login may take, and every request after it.",
    ),
)
_CONNECTIONS: Final = click.option(
    "--connections",
    type=click.IntRange(1, MOST_CONNECTIONS),
    default=1,
    show_default=True,
    metavar="N",
    help="TCP connections of a session; the target may allow fewer.",
)


def login_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a session with a target; they come as one ``login``."""
    return _with_options(command, (*_LOGIN, _CONNECTIONS))


def discovery_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a discovery session, which has one connection (RFC 7143 section 4.3); they come as those of
    login_options do."""
    return _with_options(command, _LOGIN)


def _with_options(command: Callable[..., Any], added: tuple[Callable[..., Any], ...]) -> Callable[..., Any]:
    @functools.wraps(command)
    def run(
        *args: Any,
        chap_user: str | None,
        chap_secret_file: Path | None,
        chap_target_user: str | None,
        chap_target_secret_file: Path | None,
        initiator_name: str | None,
        header_digest: bool,
        data_digest: bool,
        timeout_s: float,
        connections: int = 1,
        **others: Any,
    ) -> Any:
        chap = Chap(chap_user, chap_secret_file, chap_target_user, chap_target_secret_file)
        session = _session_of(header_digest, data_digest, connections)
        return command(*args, login=Login(chap, initiator_name or "", session, timeout_s), **others)

    with_options: Callable[..., Any] = run
    for option in reversed(added):
        with_options = option(with_options)
    return with_options


def _session_of(header_digest: bool, data_digest: bool, connections: int) -> SessionOptions:
    """What is proposed to the target: a digest that is demanded has no alternative."""
    offer = replace(
        OFFER,
        header_digest=CRC32C if header_digest else "None",
        data_digest=CRC32C if data_digest else "None",
    )
    return SessionOptions(offer=offer, connections=connections)


def credentials_of(user: str | None, secret_file: Path | None, url_user: str = "") -> Credentials | None:
    """Settle who we are: the options go before the user of the URL.

    Raises:
        click.UsageError: a user without a secret or a secret without a user.
        Failed: the secret can not be read.
    """
    user = user or url_user or None
    if secret_file is None:
        if user and user != url_user:
            raise click.UsageError("--chap-user wants --chap-secret-file")
        return None
    if user is None:
        raise click.UsageError("--chap-secret-file wants --chap-user, or a user in the URL")
    try:
        return Credentials(user, chap_secret(secret_file))
    except ConfigError as error:
        raise Failed(str(error)) from error
