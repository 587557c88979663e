"""ROD tokens: what stands for blocks of a logical unit in an offloaded copy (SPC-4 5.17.6, SBC-3 4.28).

The type here is "access upon reference": a token stands for what its blocks hold when it is used. So a write to them
does not make it wrong, and nothing is promised that would take a snapshot. A token is a bearer of no rights: who uses
it must be able to see the logical unit, and to read it.
"""

from __future__ import annotations

import hmac
from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from construct import Bytes, BytesInteger, Const, Int8ub, Int16ub, Int32ub, Padding, Struct

from csvd.scsi.sense import Asc, CheckCondition, illegal_request

if TYPE_CHECKING:
    from csvd.scsi.logical_unit import LogicalUnit

ACCESS_UPON_REFERENCE: Final = 0x0001_0000
BLOCK_DEVICE_ZERO: Final = 0xFFFF_0001
TOKEN_BYTES: Final = 512
MANAGEMENT_BYTES: Final = 96
"""What REPORT ALL ROD TOKENS tells of a token: less than it takes to use it."""
SECRET_BYTES: Final = 40
DEFAULT_INACTIVITY_TIMEOUT_S: Final = 60
MAXIMUM_INACTIVITY_TIMEOUT_S: Final = 600
MAXIMUM_TOKENS: Final = 256
MAXIMUM_TOKENS_OF_A_NEXUS: Final = 64
MAXIMUM_RANGES: Final = 64
MAXIMUM_TOKEN_BYTES: Final = 1 << 40
"""What one token may stand for."""
_REMEMBERED: Final = 256
"""Tokens that ended of which is known how."""
_LENGTH_FIELD: Final = TOKEN_BYTES - 8
_TYPE_OFFSET: Final = 0
_LENGTH_OFFSET: Final = 6
_IDENTIFIER: Final = slice(8, 16)

ROD_TOKEN: Final = Struct(
    "rod_type" / Int32ub,
    Padding(2),
    "rod_token_length" / Const(_LENGTH_FIELD, Int16ub),
    "copy_manager_rod_token_identifier" / Bytes(8),
    "creator_logical_unit_descriptor" / Bytes(32),
    "number_of_bytes_represented" / BytesInteger(16),
    Padding(32),
    "logical_block_length" / Int32ub,
    "protection" / Const(0, Int8ub),
    "logical_blocks_per_physical_block_exponent" / Int8ub,
    Padding(26),
    "extended_rod_token_data" / Bytes(TOKEN_BYTES - 128),
)


class BlockRange(NamedTuple):
    """A block device range descriptor."""

    lba: int
    blocks: int


@dataclass(slots=True, eq=False)
class RodToken:
    """A token that is alive.

    Args:
        token: its 512 bytes.
        unit: whose blocks it stands for.
        ranges: which, in their order.
        nexus: the I_T nexus that had it made.
        used_s: when it was made or last used.
    """

    token: bytes
    unit: LogicalUnit
    ranges: tuple[BlockRange, ...]
    nexus: str
    inactivity_timeout_s: int
    used_s: float


class RodTokens:
    """The tokens of one target device."""

    def __init__(self) -> None:
        self._alive: dict[bytes, RodToken] = {}
        self._ended: dict[bytes, Asc] = {}
        self._ended_order: deque[bytes] = deque()

    def __iter__(self) -> Iterator[RodToken]:
        return iter(self._alive.values())

    def make(
        self,
        secret: bytes,
        unit: LogicalUnit,
        creator: bytes,
        ranges: tuple[BlockRange, ...],
        nexus: str,
        *,
        inactivity_timeout_s: int,
        now_s: float,
    ) -> RodToken:
        """Make a token.

        Args:
            secret: 40 unpredictable bytes.
            creator: the identification descriptor of the logical unit, 32 bytes.
            nexus: name of the I_T nexus that asks for it.

        Raises:
            CheckCondition: INSUFFICIENT RESOURCES: as many as there may be are alive.
        """
        self.expire(now_s)
        of_nexus = sum(token.nexus == nexus for token in self._alive.values())
        if len(self._alive) >= MAXIMUM_TOKENS or of_nexus >= MAXIMUM_TOKENS_OF_A_NEXUS:
            raise illegal_request(Asc.INSUFFICIENT_RESOURCES)
        assert len(secret) == SECRET_BYTES
        blocks = sum(one.blocks for one in ranges)
        token: bytes = ROD_TOKEN.build(
            {
                "rod_type": ACCESS_UPON_REFERENCE,
                "copy_manager_rod_token_identifier": secret[:8],
                "creator_logical_unit_descriptor": creator,
                "number_of_bytes_represented": blocks * unit.block_bytes,
                "logical_block_length": unit.block_bytes,
                "logical_blocks_per_physical_block_exponent": unit.logical_blocks_per_physical_block_exponent,
                "extended_rod_token_data": secret[8:].ljust(TOKEN_BYTES - 128, b"\0"),
            }
        )
        made = RodToken(token, unit, ranges, nexus, inactivity_timeout_s, now_s)
        self._alive[token[_IDENTIFIER]] = made
        return made

    def find(self, token: bytes, visible: Collection[int]) -> RodToken:
        """The token with these 512 bytes.

        Args:
            visible: the LUNs that the nexus may see; a token of another is unknown to it.

        Raises:
            CheckCondition: INVALID TOKEN OPERATION, with why.
        """
        if int.from_bytes(token[_LENGTH_OFFSET : _LENGTH_OFFSET + 2]) != _LENGTH_FIELD:
            raise illegal_request(Asc.INVALID_TOKEN_OPERATION_INVALID_TOKEN_LENGTH)
        if rod_type_of(token) != ACCESS_UPON_REFERENCE:
            raise illegal_request(Asc.INVALID_TOKEN_OPERATION_UNSUPPORTED_TOKEN_TYPE)
        identifier = token[_IDENTIFIER]
        found = self._alive.get(identifier)
        if found is None:
            raise self._unknown(identifier)
        if not hmac.compare_digest(found.token, token):
            raise illegal_request(Asc.INVALID_TOKEN_OPERATION_TOKEN_CORRUPT)
        if found.unit.number not in visible:
            raise illegal_request(Asc.INVALID_TOKEN_OPERATION_TOKEN_UNKNOWN)
        return found

    def touch(self, token: RodToken, now_s: float) -> None:
        """A token is used: its inactivity begins anew.

        Raises:
            CheckCondition: INVALID TOKEN OPERATION, it has ended.
        """
        self.expire(now_s)
        identifier = token.token[_IDENTIFIER]
        if self._alive.get(identifier) is not token:
            raise self._unknown(identifier)
        token.used_s = now_s

    def _unknown(self, identifier: bytes) -> CheckCondition:
        return illegal_request(self._ended.get(identifier, Asc.INVALID_TOKEN_OPERATION_TOKEN_UNKNOWN))

    def delete(self, token: RodToken) -> None:
        """End a token whose user asked for that (DEL_TKN)."""
        self._end(token, Asc.INVALID_TOKEN_OPERATION_TOKEN_DELETED)

    def revoke(self, unit: LogicalUnit) -> None:
        """End all tokens of a logical unit: its blocks are no more what they were made for."""
        for token in list(self._alive.values()):
            if token.unit is unit:
                self._end(token, Asc.INVALID_TOKEN_OPERATION_TOKEN_REVOKED)

    def expire(self, now_s: float) -> None:
        """End the tokens that were not used for too long."""
        for token in list(self._alive.values()):
            if now_s - token.used_s > token.inactivity_timeout_s:
                self._end(token, Asc.INVALID_TOKEN_OPERATION_TOKEN_EXPIRED)

    def _end(self, token: RodToken, why: Asc) -> None:
        identifier = token.token[_IDENTIFIER]
        if self._alive.pop(identifier, None) is None:
            return
        self._ended[identifier] = why
        self._ended_order.append(identifier)
        if len(self._ended_order) > _REMEMBERED:
            self._ended.pop(self._ended_order.popleft(), None)


def rod_type_of(token: bytes) -> int:
    """ROD TYPE of the 512 bytes of a token."""
    return int.from_bytes(token[_TYPE_OFFSET : _TYPE_OFFSET + 4])


def zero_token() -> bytes:
    """The well known token of blocks that are all zeros (SBC-3 4.28.4)."""
    return BLOCK_DEVICE_ZERO.to_bytes(4) + bytes(2) + _LENGTH_FIELD.to_bytes(2) + bytes(TOKEN_BYTES - 8)
