"""Options and arguments that the commands share."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from csvd.errors import ConfigError
from csvd.iscsi.names import check_iscsi_name
from initiator.errors import UrlError
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


def json_option(command: _Command) -> _Command:
    """Add --json."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")(command)


def echo_json(value: Any) -> None:
    """Print a JSON object on stdout."""
    click.echo(json.dumps(value, indent=2))


def size_text(size_bytes: float) -> str:
    """Give a size for people."""
    for name, unit in _NUMBERS:
        if size_bytes >= unit:
            return f"{size_bytes / unit:.1f} {name}"
    return f"{size_bytes:.0f} bytes"
