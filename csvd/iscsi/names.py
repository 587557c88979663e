"""iSCSI names (RFC 7143 section 4.2.7, RFC 3722)."""

from __future__ import annotations

import re

from csvd.errors import ConfigError

MAX_NAME_BYTES = 223

_IQN = re.compile(r"iqn\.\d{4}-\d{2}\.[a-z0-9][a-z0-9.\-]*(:\S+)?\Z")
_EUI = re.compile(r"eui\.[0-9a-f]{16}\Z")
_NAA = re.compile(r"naa\.([0-9a-f]{16}|[0-9a-f]{32})\Z")


def normalize(name: str) -> str:
    """Give the form in which names are compared: lower case."""
    return name.strip().lower()


def is_iscsi_name(name: str) -> bool:
    """Whether this is a well-formed iqn, eui or naa name (in any case) of at most 223 bytes."""
    folded = name.lower()
    return (
        name.isprintable()
        and len(name.encode()) <= MAX_NAME_BYTES
        and any(form.match(folded) for form in (_IQN, _EUI, _NAA))
    )


def check_iscsi_name(name: str) -> str:
    """Give the normal form of a name that a person configured.

    Raises:
        ConfigError: it is not an iSCSI name.
    """
    if not is_iscsi_name(name):
        raise ConfigError(
            f"{name!r} is not an iSCSI name", hint="write iqn.YYYY-MM.reversed.domain[:what], eui.… or naa.…"
        )
    return normalize(name)
