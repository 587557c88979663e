"""Where a LUN is: ``iscsi://[user[%secret]@]host[:port]/target-name[/lun][?options]``, the form of libiscsi and QEMU.

>>> url = parse_url("iscsi://[2001:db8::7]:3261/iqn.2026-11.example:disks/4?data_digest=crc32c")
>>> url.portal, url.target_name, url.lun, url.data_digest
(Portal(host='2001:db8::7', port=3261), 'iqn.2026-11.example:disks', 4, 'CRC32C')
>>> parse_url("iscsi://me%opensesame12345@host/iqn.2026-11.example:disks")
IscsiUrl('iscsi://me@host:3260/iqn.2026-11.example:disks/0')
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import quote, unquote_to_bytes

from csvd.iscsi.chap import Algorithm, Credentials
from csvd.iscsi.digests import CRC32C
from csvd.iscsi.names import MAX_NAME_BYTES, is_iscsi_name, normalize
from initiator.errors import UrlError

DEFAULT_PORT: Final = 3260
"""The port of iSCSI (RFC 7143 section 4.1)."""

MAX_LUN: Final = 16383
"""The highest LUN of flat addressing (SAM-5 section 4.7.7)."""

_FORM: Final = "iscsi://[user[%secret]@]host[:port]/target-name[/lun][?options]"
_PORTAL_FORM: Final = "iscsi://[user[%secret]@]host[:port][/target-name][?options]"
_DIGESTS: Final = {"crc32c": CRC32C, "none": "None"}
_ALGORITHMS: Final = {"md5": Algorithm.MD5, "sha-256": Algorithm.SHA256, "sha3-256": Algorithm.SHA3_256}
_MAX_SERIAL_CHARACTERS: Final = 252
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
    header_digest: str = ""
    """``CRC32C`` or ``None`` (RFC 7143 section 13.1), where the URL demands one of them; else empty."""
    data_digest: str = ""
    algorithms: tuple[Algorithm, ...] = ()
    """The CHAP algorithms to be offered, where the URL names one."""
    initiator_name: str = ""
    serial: str = ""
    """The unit serial number (VPD page 80h) that the LUN must have; empty for any."""

    def __str__(self) -> str:
        user = f"{self.user}@" if self.user else ""
        place = f"/{self.target_name}/{self.lun}" if self.target_name else ""
        options = "&".join(f"{key}={quote(value, safe=':')}" for key, value in self._options() if value)
        return f"iscsi://{user}{self.portal}{place}" + (f"?{options}" if options else "")

    def _options(self) -> tuple[tuple[str, str], ...]:
        """What may be shown of the options."""
        return (
            ("target_user", self.target_user),
            ("header_digest", self.header_digest.lower()),
            ("data_digest", self.data_digest.lower()),
            ("auth", next((name for name, one in _ALGORITHMS.items() if self.algorithms == (one,)), "")),
            ("force_usn", self.serial),
            ("initiator", self.initiator_name),
        )

    def __repr__(self) -> str:
        return f"IscsiUrl({str(self)!r})"


def parse_url(text: str) -> IscsiUrl:
    """Parse the URL of a LUN; without a LUN it is LUN 0.

    The first ``%`` before the ``@`` parts user and secret, or where there is none the first ``:``, as in libiscsi. In
    the secret, the target name and the options ``%40`` and its like stand for the byte of that number, so a ``/`` in a
    secret is written ``%2F`` and a ``%`` ``%25``.

    The options are those of libiscsi, parted by ``&``: ``target_user`` and ``target_password`` (mutual CHAP),
    ``header_digest`` and ``data_digest`` (``crc32c`` or ``none``: demanded, not proposed), ``auth`` (``md5``,
    ``sha-256`` or ``sha3-256``), ``force_usn`` (the unit serial number that the LUN must have); and ``initiator``, what
    we are called.

    Raises:
        UrlError: it has another form; the text of the error does not repeat what may be a secret.
    """
    return _parse(text, whole=True)


def parse_portal_url(text: str) -> IscsiUrl:
    """Parse the URL of a portal, as :func:`discover` takes it: that of a LUN, in which target and LUN may be missing.

    Raises:
        UrlError: it has another form.
    """
    return _parse(text, whole=False)


def _parse(text: str, *, whole: bool) -> IscsiUrl:
    form = _FORM if whole else _PORTAL_FORM
    scheme, mark, rest = text.partition("://")
    if mark and scheme.lower() == "iser":
        raise UrlError("iSER is not spoken here", hint="write iscsi:// for iSCSI over TCP")
    if not mark or scheme.lower() != "iscsi":
        raise UrlError("this is not an iSCSI URL", hint=f"write {form}")
    authority, slash, tail = rest.partition("/")
    user_part, at, address = authority.rpartition("@")
    path, _, options = tail.partition("?")
    if "?" in address:
        address, _, options = f"{address}{slash}{tail}".partition("?")
        path = ""
    if "@" in path:
        raise UrlError("the URL has an @ after its first /", hint="in a secret, write %2F for a /")
    if whole and not path:
        raise UrlError("the URL names no target", hint=f"write {form}; csv-initiator discover lists the targets")
    user, secret_mark, encoded = _user_and_secret(user_part)
    if at and (not user or not user.isprintable() or len(user.encode()) > MAX_NAME_BYTES):
        raise UrlError("the URL has an @ and no user before it", hint=f"write {form}")
    name, lun = _target_and_lun(path) if path else ("", 0)
    plain = IscsiUrl(
        portal=parse_portal(address),
        target_name=name,
        lun=lun,
        user=user,
        credentials=Credentials(user, _secret(encoded)) if secret_mark else None,
    )
    return _with_options(plain, options)


def _user_and_secret(text: str) -> tuple[str, str, str]:
    return text.partition("%") if "%" in text else text.partition(":")


def _with_options(plain: IscsiUrl, text: str) -> IscsiUrl:
    options: dict[str, str] = {}
    for option in filter(None, text.split("&")):
        key, _, value = option.partition("=")
        if key in ("iser", "LIBISCSI_RDMA_ACK_TIMEOUT"):
            raise UrlError(f"iSER is not spoken here, and the URL has the option {key}")
        if key not in _OPTIONS:
            raise UrlError("the URL has an option that there is not", hint=f"there are {', '.join(_OPTIONS)}")
        if key in options or not value:
            raise UrlError(f"the URL gives {key} twice" if key in options else f"the URL gives {key} no value")
        options[key] = value
    fields: dict[str, Any] = {}
    for key, value in options.items():
        fields |= _OPTIONS[key](value)
    secret = fields.pop("target_password", None)
    if secret is not None:
        if "target_user" not in fields:
            raise UrlError("the URL has a target_password and no target_user")
        fields["target_credentials"] = Credentials(fields["target_user"], secret)
    return replace(plain, **fields)


def _chosen(field_name: str, key: str, choices: Mapping[str, Any]) -> Callable[[str], dict[str, Any]]:
    def read(value: str) -> dict[str, Any]:
        if value.lower() not in choices:
            raise UrlError(f"{value[:20]!r} is no {key}", hint=f"there are {' and '.join(choices)}")
        return {field_name: choices[value.lower()]}

    return read


def _text(value: str, key: str, limit: int) -> str:
    try:
        text = unquote_to_bytes(value).decode()
    except UnicodeDecodeError as error:
        raise UrlError(f"the {key} of the URL is not UTF-8") from error
    if not text.isprintable() or len(text.encode()) > limit:
        raise UrlError(f"the {key} of the URL is too long, or not printable")
    return text


def _initiator_name(value: str) -> dict[str, Any]:
    name = _text(value, "initiator", MAX_NAME_BYTES)
    if not is_iscsi_name(name):
        raise UrlError(f"{name[:80]!r} is not an iSCSI name", hint=_NAME_HINT)
    return {"initiator_name": normalize(name)}


_NAME_HINT: Final = "an iSCSI name is iqn.YYYY-MM.domain[:what], eui.… or naa.…"

_OPTIONS: Final[dict[str, Callable[[str], dict[str, Any]]]] = {
    "target_user": lambda value: {"target_user": _text(value, "target_user", MAX_NAME_BYTES)},
    "target_password": lambda value: {"target_password": _secret(value)},
    "header_digest": _chosen("header_digest", "header_digest", _DIGESTS),
    "data_digest": _chosen("data_digest", "data_digest", _DIGESTS),
    "auth": _chosen("algorithms", "auth", {name: (one,) for name, one in _ALGORITHMS.items()}),
    "force_usn": lambda value: {"serial": _text(value, "force_usn", _MAX_SERIAL_CHARACTERS)},
    "initiator": _initiator_name,
}
"""What each option sets."""


def parse_portal(text: str) -> Portal:
    """Parse ``host[:port]``, ``[IPv6 address][:port]`` or an IPv6 address alone.

    Raises:
        UrlError: it is none of them.
    """
    if text.startswith("["):
        host, bracket, tail = text[1:].partition("]")
        host, scope, zone = host.partition("%25")  # RFC 6874: in a URL the % before a zone is written so
        host = f"{host}%{zone or '25'}" if scope else host
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
        raise UrlError(f"{name[:80]!r} is not an iSCSI name", hint=_NAME_HINT)
    if not (number.isascii() and number.isdigit() and len(number) <= 5 and int(number) <= MAX_LUN):
        raise UrlError(f"{number[:20]!r} is not a LUN", hint=f"a LUN is 0 to {MAX_LUN}")
    return normalize(name), int(number)
