"""Names of nodes and guests, and addresses: one rule each, used by the register, the links and the facade."""

from __future__ import annotations

import re
from typing import Final

_NODE: Final = re.compile(r"[a-z0-9-]{1,63}", re.ASCII)
_GUEST: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)

NODE_NAME_RULE: Final = "1 to 63 of a-z, 0-9 and '-'"
CLUSTER_NAME_RULE: Final = "1 to 63 of A-Z, a-z, 0-9, '.', '_' and '-', a letter or digit first"
GUEST_NAME_RULE: Final = "1 to 63 of A-Z, a-z, 0-9, '.', '_' and '-', a letter or digit first"


def is_node_name(value: object) -> bool:
    """Whether a value is the name of a node: `[a-z0-9-]{1,63}`."""
    return isinstance(value, str) and _NODE.fullmatch(value) is not None


def is_cluster_name(value: object) -> bool:
    """Whether a value is the name of a cluster."""
    return isinstance(value, str) and _GUEST.fullmatch(value) is not None


def is_guest_name(value: object) -> bool:
    """Whether a value is the name of a guest."""
    return isinstance(value, str) and _GUEST.fullmatch(value) is not None


def text_of_address(address: tuple[str, int]) -> str:
    """Host and port as a person writes them: `host:port`, or `[host]:port` of version 6."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def address_of_text(text: str) -> tuple[str, int] | None:
    """Host and port of what `text_of_address` gives; None of an empty text."""
    if not text:
        return None
    host, _, port = text.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)
