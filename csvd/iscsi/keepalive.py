"""How long a peer may be silent (RFC 7143 sections 7.13 and 11.19)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from csvd.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Keepalive:
    """The time-outs of a connection.

    Args:
        idle_s: silence after which a NOP-In asks whether the initiator is there, and how often it asks then.
        dead_s: silence after which a peer is given up: an initiator that has answered a NOP-In before, one that is
            silent in the middle of a PDU, and one that reads nothing of what is sent. iPXE never answers a NOP-In: for
            silence alone it is not given up, and its TCP connection says whether its host is alive.
        login_s: the time for a whole login.
        discovery_s: silence after which a discovery session is ended: it has nothing to wait for.

    Raises:
        ConfigError: a peer would be given up before it was asked.
    """

    idle_s: float = 30.0
    dead_s: float = 90.0
    login_s: float = 15.0
    discovery_s: float = 60.0

    def __post_init__(self) -> None:
        if not self.idle_s < self.dead_s:
            raise ConfigError(
                f"a peer would be given up after {self.dead_s:g} s, before it was asked after {self.idle_s:g} s",
                hint="make dead_s the longer time",
            )


KEEPALIVE: Final = Keepalive()
