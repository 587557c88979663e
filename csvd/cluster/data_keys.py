"""The keys by which the cluster seals what it keeps on shared disks, as one node has them.

One of them is current: by it is sealed. The others are of what was sealed before the key was rotated. Every member has
them, and none leaves the members: a node that does not have a key asks another member for it, over their link.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred, DeferredLock

from csvd.cluster.calls import Handler
from csvd.cluster.errors import ClusterError
from csvd.cluster.register_members import Member
from csvd.errors import ConfigError, CsvdError

METHOD: Final = "cluster.data_key"
KEY_BYTES: Final = 32
MAXIMUM_KEYS: Final = 8
ASK_S: Final = 5.0
_PURPOSE: Final = b"csvd data key\0"


class NoDataKey(ClusterError):
    """A key is not here, and no member that could be asked has it."""


class KeyHolders(Protocol):
    """This node's membership, as far as it is needed here."""

    @property
    def node(self) -> str:
        """The id of this node."""

    @property
    def members(self) -> Mapping[str, Member]:
        """The members by id."""

    def is_linked(self, node: str) -> bool:
        """Whether there is a link to a node."""

    def serve(self, method: str, handler: Handler) -> None:
        """Answer a method."""

    async def call(self, node: str, method: str, params: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
        """Call a method of a node."""


def id_of_key(key: bytes) -> str:
    """By what a key is known where it must not be seen: 16 hexadecimal digits."""
    return hashlib.sha256(_PURPOSE + key).hexdigest()[:16]


class DataKeys:
    """The keys of one node.

    Args:
        keys: the current one first, each of 32 bytes.
        store: makes all of them durable, the current one first.
        holders: by whom others have them; None where there are no others.

    Raises:
        ConfigError: one of them has another length.
    """

    def __init__(
        self,
        keys: Sequence[bytes],
        *,
        store: Callable[[Sequence[bytes]], Deferred[None]] | None = None,
        holders: KeyHolders | None = None,
    ) -> None:
        for key in keys:
            if len(key) != KEY_BYTES:
                raise ConfigError(f"the cluster's key for secrets has {len(key)} bytes, not {KEY_BYTES}")
        self._keys = {id_of_key(key): key for key in keys}
        self._store = store
        self._holders = holders
        self._turn = DeferredLock()
        if holders is not None:
            holders.serve(METHOD, self._asked)

    @property
    def current(self) -> str:
        """The id of the key by which to seal."""
        return next(iter(self._keys))

    @property
    def current_key(self) -> bytes:
        """The key by which to seal."""
        return self._keys[self.current]

    @property
    def ids(self) -> Sequence[str]:
        """Of all that are here, the current one first."""
        return tuple(self._keys)

    def key(self, key_id: str) -> bytes | None:
        """A key by its id; None where it is not here."""
        return self._keys.get(key_id)

    async def add(self, key: bytes) -> str:
        """Have one more key, durably; give its id. It is not the current one yet.

        Raises:
            CsvdError: it could not be stored, or there are too many.
        """
        key_id = id_of_key(key)
        if key_id not in self._keys:
            if len(self._keys) >= MAXIMUM_KEYS:
                raise ClusterError(f"this node has {MAXIMUM_KEYS} keys already", hint="csvd key rotate ends old ones")
            await self._change(lambda keys: {**keys, key_id: key})
        return key_id

    async def use(self, key_id: str) -> None:
        """Seal by a key from now on, which is here.

        Raises:
            CsvdError: it could not be stored.
        """
        if key_id != self.current:
            await self._change(lambda keys: {key_id: keys[key_id], **keys})

    async def keep_only(self, key_ids: Sequence[str]) -> None:
        """Forget all others, but the current one.

        Raises:
            CsvdError: it could not be stored.
        """
        wanted = {self.current, *key_ids}
        if any(key_id not in wanted for key_id in self._keys):
            await self._change(lambda keys: {key_id: key for key_id, key in keys.items() if key_id in wanted})

    async def fetch(self, key_id: str, first: str = "") -> None:
        """Have a key, from a member that has it.

        Args:
            first: the node that is asked first.

        Raises:
            NoDataKey: nobody gave it.
            CsvdError: it could not be stored.
        """
        if key_id in self._keys:
            return
        holders = self._holders
        others = [] if holders is None else [node for node in holders.members if node != holders.node]
        for node in sorted(others, key=lambda node: node != first):
            assert holders is not None
            if not holders.is_linked(node):
                continue
            try:
                answer = await holders.call(node, METHOD, {"id": key_id}, timeout_s=ASK_S)
                key = bytes.fromhex(str(answer.get("key")))
            except (CsvdError, ValueError):
                continue
            # Its id is made of it: who gives another key gives none.
            if len(key) == KEY_BYTES and id_of_key(key) == key_id:
                await self.add(key)
                return
        raise NoDataKey(f"no member that can be asked has the key {key_id}", hint="it is asked for again")

    async def _asked(self, peer: str, params: dict[str, Any]) -> dict[str, Any]:
        assert self._holders is not None
        key = self._keys.get(str(params.get("id")))
        if key is None or peer not in self._holders.members:
            raise NoDataKey("this node has no such key for you")
        return {"key": key.hex()}

    async def _change(self, change: Callable[[Mapping[str, bytes]], dict[str, bytes]]) -> None:
        await self._turn.acquire()
        try:
            changed = change(self._keys)
            if self._store is not None:
                await self._store(list(changed.values()))
            self._keys = changed
        finally:
            self._turn.release()
