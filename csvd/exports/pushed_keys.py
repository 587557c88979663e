"""The keys of secrets of which the coordinator tells a node: which to have, by which to seal, which to forget.

What is told are ids. The keys themselves go from node to node (`csvd.cluster.data_keys`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from csvd.api.errors import Unavailable
from csvd.cluster.bell import pause
from csvd.cluster.data_keys import DataKeys
from csvd.cluster.reactor import Clock

Json = dict[str, Any]

EVICTED_S: Final = 10.0
"""How long a node that is to have a key waits to hear of an eviction."""
LOOK_S: Final = 0.1


class KeyPushed(msgspec.Struct, forbid_unknown_fields=True):
    """Of the push "key": a key to have, which is not used yet.

    Args:
        key: its id.
        by: the node that has it.
        without: a node that was evicted, and must not get it from this one.
    """

    key: str
    by: str
    without: str


class KeysPushed(msgspec.Struct, forbid_unknown_fields=True):
    """Of the push "keys": nothing is sealed with any others any more; the first is the one to seal with."""

    keys: list[str]


class PushedKeys:
    """The keys of one node, as the coordinator has them taken, used and forgotten.

    Args:
        keys: this node's; None on a node of no cluster.
        is_member: whether a node is a member of the cluster, by its id, as this one knows.
        clock: the node's loop.
    """

    def __init__(self, keys: DataKeys | None, is_member: Callable[[str], bool], clock: Clock) -> None:
        self._keys = keys
        self._is_member = is_member
        self._clock = clock

    async def take(self, pushed: KeyPushed) -> Json:
        """Have a key that is about to be used.

        Raises:
            CsvdError: it is not to be had, or an eviction is not known here.
        """
        deadline_s = self._clock.seconds() + EVICTED_S
        while self._is_member(pushed.without):
            # This node would give it to one that asks: it does not know yet that it was evicted.
            if self._clock.seconds() >= deadline_s:
                raise Unavailable(f"this node does not know yet that {pushed.without} was evicted")
            await pause(self._clock, LOOK_S)
        if self._keys is None:
            raise Unavailable("this node has no keys of a cluster")
        await self._keys.fetch(pushed.key, pushed.by)
        return {"key": pushed.key}

    async def keep_only(self, pushed: KeysPushed) -> None:
        """Seal by the first of these, and forget all others.

        Raises:
            CsvdError: it is not to be had, or nothing could be stored.
        """
        if self._keys is None:
            return
        for key_id in pushed.keys[:1]:
            await self.use(key_id)
        await self._keys.keep_only(pushed.keys)

    def is_other(self, key_id: str) -> bool:
        """Whether this node does not seal by a key yet, of which it is told; by none is meant where the id is empty."""
        return self._keys is not None and bool(key_id) and key_id != self._keys.current

    async def use(self, key_id: str, first: str = "") -> None:
        """Seal by this key from now on; one that this node does not have, for it was away, is asked for.

        Args:
            first: the node that is asked first.

        Raises:
            CsvdError: it is not to be had, or could not be stored.
        """
        if self._keys is not None:
            await self._keys.fetch(key_id, first)
            await self._keys.use(key_id)
