"""Where a LUN is: ``iscsi://[user[%secret]@]host[:port]/target-name[/lun]``, the form of libiscsi and QEMU.

>>> url = parse_url("iscsi://[2001:db8::7]:3261/iqn.2026-11.example:disks/4")
>>> url.portal, url.target_name, url.lun
(Portal(host='2001:db8::7', port=3261), 'iqn.2026-11.example:disks', 4)
>>> parse_url("iscsi://me%opensesame12345@host/iqn.2026-11.example:disks")
IscsiUrl('iscsi://me@host:3260/iqn.2026-11.example:disks/0')
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote_to_bytes

from csvd.iscsi.chap import Credentials
from csvd.iscsi.names import MAX_NAME_BYTES, is_iscsi_name, normalize
from initiator.errors import UrlError

DEFAULT_PORT: Final = 3260
"""The port of iSCSI (RFC 7143 section 4.1)."""

MAX_LUN: Final = 16383
"""The highest LUN of flat addressing (SAM-5 section 4.7.7)."""

_FORM: Final = "iscsi://[user[%secret]@]host[:port]/target-name[/lun]"
_HOST: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.\-]*[A-Za-z0-9_.])?\Z")
_ADDRESS_6: Final = re.compile(r"[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*(?:%[A-Za-z0-9_.\-]+)?\Z")


@dataclass(frozen=True, slots=True)
class Portal:
    """The address at which a target listens."""

    host: str
    port: int = DEFAULT_PORT

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, repr=False)
class IscsiUrl:
    """A parsed URL. Neither ``str`` nor ``repr`` gives the secret away."""

    portal: Portal
    target_name: str
    lun: int = 0
    user: str = ""
    credentials: Credentials | None = field(default=None, compare=False)
    """User and secret, where the URL has both."""
    target_user: str = ""
    target_credentials: Credentials | None = field(default=None, compare=False)
    """User and secret of the target (mutual CHAP), where the URL has both."""

    def __str__(self) -> str:
        user = f"{self.user}@" if self.user else ""
        return f"iscsi://{user}{self.portal}/{self.target_name}/{self.lun}"

    def __repr__(self) -> str:
        return f"IscsiUrl({str(self)!r})"


def parse_url(text: str) -> IscsiUrl:
    """Parse the URL of a LUN; without a LUN it is LUN 0.

    The first ``%`` before the ``@`` parts user and secret, as in libiscsi. In the secret and in the target name ``%40``
    and its like stand for the byte of that number, so a ``/`` in a secret is written ``%2F`` and a ``%`` ``%25``.

    Raises:
        UrlError: it has another form; the text of the error does not repeat the user and secret.
    """
    scheme, mark, rest = text.partition("://")
    if not mark or scheme.lower() != "iscsi":
        raise UrlError("this is not an iSCSI URL", hint=f"write {_FORM}")
    authority, slash, path = rest.partition("/")
    user_part, at, address = authority.rpartition("@")
    if not slash or not path:
        raise UrlError("the URL names no target", hint=f"write {_FORM}; csv-initiator discover lists the targets")
    user, secret_mark, encoded = user_part.partition("%")
    if at and (not user or not user.isprintable() or len(user.encode()) > MAX_NAME_BYTES):
        raise UrlError("the URL has an @ and no user before it", hint=f"write {_FORM}")
    credentials = Credentials(user, _secret(encoded)) if secret_mark else None
    if "?" in path or "#" in path:
        raise UrlError("the URL has options after its path, and there are none", hint=f"write {_FORM}")
    name, lun = _target_and_lun(path)
    return IscsiUrl(parse_portal(address), name, lun, user, credentials)


def parse_portal(text: str) -> Portal:
    """Parse ``host[:port]``, ``[IPv6 address][:port]`` or an IPv6 address alone.

    Raises:
        UrlError: it is none of them.
    """
    if text.startswith("["):
        host, bracket, tail = text[1:].partition("]")
        if not bracket or not _ADDRESS_6.match(host) or (tail and not tail.startswith(":")):
            raise UrlError("an IPv6 address stands in brackets, as in [::1]:3260")
        return Portal(host, _port(tail[1:]) if tail else DEFAULT_PORT)
    if text.count(":") > 1 and _ADDRESS_6.match(text):
        return Portal(text)
    host, colon, port = text.partition(":")
    if not _HOST.match(host) or len(host) > 253:
        raise UrlError("there is no host name or address where one belongs", hint="write HOST[:PORT] or [IPV6]:PORT")
    return Portal(host, _port(port) if colon else DEFAULT_PORT)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535):
        raise UrlError("a port is a number from 1 to 65535")
    return int(text)


def _secret(encoded: str) -> bytes:
    secret = unquote_to_bytes(encoded)
    if not 1 <= len(secret) <= 255:
        raise UrlError("the secret in the URL has not 1 to 255 bytes")
    return secret


def _target_and_lun(path: str) -> tuple[str, int]:
    name, slash, number = path.rpartition("/")
    if not slash:
        name, number = path, "0"
    try:
        name = unquote_to_bytes(name).decode()
    except UnicodeDecodeError as error:
        raise UrlError("the target name is not UTF-8") from error
    if not is_iscsi_name(name):
        raise UrlError(
            f"{name[:80]!r} is not an iSCSI name", hint="an iSCSI name is iqn.YYYY-MM.domain[:what], eui.… or naa.…"
        )
    if not (number.isascii() and number.isdigit() and len(number) <= 5 and int(number) <= MAX_LUN):
        raise UrlError(f"{number[:20]!r} is not a LUN", hint=f"a LUN is 0 to {MAX_LUN}")
    return normalize(name), int(number)
