"""What a key's value may be: one Kind for each, which says it in words and checks it."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from csvd.errors import ConfigError

_SIZE: Final = re.compile(r"([0-9]+(?:\.[0-9]{1,6})?)\s*([KMGTP]?)(?:I?B)?", re.ASCII | re.IGNORECASE)
_UNITS: Final = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "P": 2**50}
MAX_SIZE_BYTES: Final = 2**63 - 1


def parse_size(text: str) -> int:
    """Read a number of bytes: ``4096``, ``64K``, ``1.5G``, ``10GiB``; units are powers of 1,024.

    Raises:
        ConfigError: it is not a size, or not a whole number of bytes, or 2**63 or more.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None or len(text) > 40:
        raise ConfigError(f"{text[:40]!r} is not a size", hint="write bytes, or a number with K, M, G or T: 256M")
    digits: str = match[1]
    unit: int = _UNITS[match[2].upper()]
    whole, _, decimals = digits.partition(".")
    scale: int = 10 ** len(decimals)
    size_bytes, rest = divmod(int(whole + decimals) * unit, scale)
    if rest:
        raise ConfigError(f"{text!r} is not a whole number of bytes")
    if size_bytes > MAX_SIZE_BYTES:
        raise ConfigError(f"{text!r} is too large: a size is less than 8192 P")
    return size_bytes


def format_size(size_bytes: float) -> str:
    """Give a size for people: ``512 B``, ``64.0 KiB``, ``1.5 GiB``."""
    value = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if abs(value) < 1024 or unit == "PiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of value.

    Args:
        words: what it is, in the docs and in errors: ``a whole number from 1 to 9``.
        read: gives the value in the form that the program uses, or raises ConfigError.
    """

    words: str
    read: Callable[[Any], Any]


_TYPES: Final = {
    bool: "a boolean",
    int: "a whole number",
    float: "a number",
    str: "a text",
    list: "a list",
    dict: "a table",
}


def _wrong(words: str, value: object) -> NoReturn:
    shown = f" {value!r}" if isinstance(value, bool | int | float | str) and len(repr(value)) <= 80 else ""
    raise ConfigError(f"is {_TYPES.get(type(value), 'a ' + type(value).__name__)}{shown}, not {words}")


def whole(least: int, most: int) -> Kind:
    """A whole number in a range, both ends included."""
    words = f"a whole number from {least} to {most}"

    def read(value: object) -> int:
        if type(value) is not int or not least <= value <= most:
            _wrong(words, value)
        return value

    return Kind(words, read)


def number(above: float, most: float) -> Kind:
    """A number more than ``above`` and at most ``most``."""
    words = f"a number above {above:g}, at most {most:g}"

    def read(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not above < value <= most:
            _wrong(words, value)
        return float(value)

    return Kind(words, read)


def text(words: str = "a text", check: Callable[[str], str] | None = None) -> Kind:
    """A text that is not empty; ``check`` gives its normal form, or raises ConfigError."""

    def read(value: object) -> str:
        if not isinstance(value, str) or not value or not value.isprintable():
            _wrong(words, value)
        return check(value) if check is not None else value

    return Kind(words, read)


def matching(words: str, test: Callable[[object], bool]) -> Kind:
    """A text that passes a test."""

    def read(value: object) -> str:
        if not isinstance(value, str) or not test(value):
            _wrong(words, value)
        return value

    return Kind(words, read)


def choice(*options: str) -> Kind:
    """One of a few words."""
    words = f"one of {', '.join(options)}"
    return matching(words, lambda value: value in options)


def size(least: int, most: int = MAX_SIZE_BYTES) -> Kind:
    """A number of bytes, written as a whole number or with a unit."""
    words = "a size, as 4096 or 10G"

    def read(value: object) -> int:
        if isinstance(value, str):
            value = parse_size(value)
        if type(value) is not int:
            _wrong(words, value)
        if not least <= value <= most:
            raise ConfigError(f"is {value} bytes, not {least} to {most}")
        return value

    return Kind(words, read)


def one_of_numbers(*options: int) -> Kind:
    """One of a few whole numbers."""
    words = f"one of {', '.join(map(str, options))}"

    def read(value: object) -> int:
        if type(value) is not int or value not in options:
            _wrong(words, value)
        return value

    return Kind(words, read)


def _read_boolean(value: object) -> bool:
    if not isinstance(value, bool):
        _wrong("true or false", value)
    return value


def _read_file_mode(value: object) -> int:
    words = 'a file mode: "0600" or "0660"'
    if value not in ("0600", "0660"):
        _wrong(words, value)
    return int(str(value), 8)


def _address(words: str, least_port: int, *, is_port_optional: bool) -> Kind:
    def read(value: object) -> str:
        if not isinstance(value, str) or not value.isprintable() or " " in value:
            _wrong(words, value)
        host, colon, port = value.rpartition(":")
        if is_port_optional and (not colon or value.endswith("]")):
            host, port = value, "1"
        if not host or not port.isascii() or not port.isdigit() or not least_port <= int(port[:6]) <= 65535:
            _wrong(words, value)
        if ":" in host and not (host.startswith("[") and host.endswith("]")):
            raise ConfigError(f"is {value!r}, not {words}", hint="write an IPv6 address in brackets: [ADDRESS]:PORT")
        return value

    return Kind(words, read)


def hexadecimal(*lengths_bytes: int) -> Kind:
    """Bytes of one of a few lengths, written as hexadecimal digits, with or without ``0x``."""
    words = f"{' or '.join(map(str, lengths_bytes))} bytes in hexadecimal digits"

    def read(value: object) -> bytes:
        if not isinstance(value, str):
            _wrong(words, value)
        digits = value.removeprefix("0x")
        if not re.fullmatch("[0-9A-Fa-f]*", digits) or len(digits) not in [2 * length for length in lengths_bytes]:
            _wrong(words, value)
        return bytes.fromhex(digits)

    return Kind(words, read)


def _read_network(value: object) -> str:
    words = "an address or a network: 10.0.0.0/8, fd00::/8"
    if not isinstance(value, str):
        _wrong(words, value)
    try:
        return str(ipaddress.ip_network(value))
    except ValueError as error:
        raise ConfigError(f"is {value[:60]!r}, not {words}", why=str(error)) from error


def _read_rotation_rate(value: object) -> int:
    if type(value) is not int or not (value in (0, 1) or 1025 <= value <= 65534):
        _wrong("0, 1, or a whole number from 1025 to 65534", value)
    return value


BOOLEAN: Final = Kind("true or false", _read_boolean)
FILE_MODE: Final = Kind('"0600" or "0660"', _read_file_mode)
ADDRESS: Final = _address("HOST:PORT, with a port of 1 to 65535", 1, is_port_optional=False)
PORTAL: Final = _address("HOST:PORT or HOST, with a port of 0 to 65535", 0, is_port_optional=True)
NETWORK: Final = Kind("an address or a network: 10.0.0.0/8, fd00::/8", _read_network)
ROTATION_RATE: Final = Kind("0, 1, or a whole number from 1025 to 65534", _read_rotation_rate)
PATH: Final = text("a path")


def list_of(kind: Kind, *, least: int = 1) -> Kind:
    """A list, without doubles, of at least ``least`` values of one kind."""
    words = f"a list of {kind.words.removeprefix('a ').removeprefix('an ')}"

    def read(value: object) -> tuple[Any, ...]:
        if not isinstance(value, Sequence) or isinstance(value, str):
            _wrong(words, value)
        items = tuple(kind.read(item) for item in value)
        if len(items) < least:
            raise ConfigError(f"is a list of {len(items)}, and needs at least {least}")
        for item in items:
            if items.count(item) > 1:
                raise ConfigError(f"names {item!r} twice")
        return items

    return Kind(words, read)
