"""Options and arguments that the commands share."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from csvd.errors import ConfigError
from csvd.iscsi.chap import Credentials
from csvd.iscsi.digests import CRC32C
from csvd.iscsi.keys import OFFER
from csvd.iscsi.names import check_iscsi_name
from initiator.cli.runtime import Failed
from initiator.errors import UrlError
from initiator.more_links import MOST_CONNECTIONS
from initiator.options import SessionOptions
from initiator.secrets import chap_secret
from initiator.url import IscsiUrl, parse_portal, parse_portal_url, parse_url

_UNITS: Final = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "P": 2**50}
_SIZE: Final = re.compile(r"([0-9]{1,19})([KMGTP]?)(?:i?B)?", re.ASCII | re.IGNORECASE)
_NUMBERS: Final = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))

_Command = TypeVar("_Command", bound=Callable[..., Any])


def size(value: str) -> int:
    """Kind of option: a number of bytes, with K, M, G or T for powers of 1,024."""
    match = _SIZE.fullmatch(value.strip())
    if match is None:
        raise click.BadParameter(f"{value!r} is not a size: write bytes, or a number with K, M, G or T, as 64M.")
    return int(match[1]) * _UNITS[match[2].upper()]


def url(value: str) -> IscsiUrl:
    """Kind of argument: the URL of a LUN. The message of a failure does not repeat a secret."""
    try:
        return parse_url(value)
    except UrlError as error:
        raise click.BadParameter(str(error)) from error


def portal_url(value: str) -> IscsiUrl:
    """Kind of argument: HOST[:PORT], or a URL in which the target may be missing."""
    try:
        return parse_portal_url(value) if "://" in value else IscsiUrl(parse_portal(value), "")
    except UrlError as error:
        raise click.BadParameter(str(error)) from error


def iscsi_name(value: str) -> str:
    """Kind of option: an iSCSI name."""
    try:
        return check_iscsi_name(value)
    except ConfigError as error:
        raise click.BadParameter(str(error)) from error


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
        type=iscsi_name,
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


def session_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a session with a target: those of CHAP come as one ``chap``, those of how it behaves as one
    ``session``."""
    return _with_options(command, (*_LOGIN, _CONNECTIONS))


def discovery_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a discovery session, which has one connection (RFC 7143 section 4.3); they come as those of
    session_options do."""
    return _with_options(command, _LOGIN)


def _with_options(command: Callable[..., Any], added: tuple[Callable[..., Any], ...]) -> Callable[..., Any]:
    command = _gathered(command)
    for option in reversed(added):
        command = option(command)
    return command


def _gathered(command: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(command)
    def run(
        *args: Any,
        chap_user: str | None,
        chap_secret_file: Path | None,
        chap_target_user: str | None,
        chap_target_secret_file: Path | None,
        header_digest: bool,
        data_digest: bool,
        connections: int = 1,
        **others: Any,
    ) -> Any:
        chap = Chap(chap_user, chap_secret_file, chap_target_user, chap_target_secret_file)
        session = _session_of(header_digest, data_digest, connections)
        return command(*args, chap=chap, session=session, **others)

    return run


def _session_of(header_digest: bool, data_digest: bool, connections: int) -> SessionOptions:
    """What is proposed to the target: a digest that is demanded has no alternative."""
    offer = replace(
        OFFER,
        header_digest=CRC32C if header_digest else "None",
        data_digest=CRC32C if data_digest else "None",
    )
    return SessionOptions(offer=offer, connections=connections)


def json_option(command: _Command) -> _Command:
    """Add --json."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")(command)


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


def echo_json(value: Any) -> None:
    """Print a JSON object on stdout."""
    click.echo(json.dumps(value, indent=2))


def size_text(size_bytes: float) -> str:
    """Give a size for people."""
    for name, unit in _NUMBERS:
        if size_bytes >= unit:
            return f"{size_bytes / unit:.1f} {name}"
    return f"{size_bytes:.0f} bytes"
