"""What a logical unit is: its size, identity and properties, as the configuration and the disk behind it say."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final

from csvd.errors import ConfigError
from csvd.scsi.lun import LUN_LIMIT
from csvd.scsi.range_locks import RangeLocks

if TYPE_CHECKING:
    from csvd.scsi.cluster_unit import ClusterUnit

# A company identifier with the locally administered bit set: csvd has no block of its own at the IEEE.
LOCAL_COMPANY_ID: Final = 0x024353
_NAA_IEEE_REGISTERED_EXTENDED = 6
_NAA_LENGTHS = {0x2: 8, 0x3: 8, 0x5: 8, 0x6: 16}


class Peripheral(IntEnum):
    """PERIPHERAL QUALIFIER and PERIPHERAL DEVICE TYPE, the first byte of INQUIRY data (SPC-4 6.6.2)."""

    DISK = 0x00
    WELL_KNOWN = 0x1E
    ABSENT = 0x7F


def naa_of(serial: str) -> bytes:
    """A 16-byte NAA 6 designator made of the serial number, so it is the same on every node and after any restart."""
    digest = int.from_bytes(hashlib.sha256(serial.encode()).digest()[:13])
    vendor_specific = digest & ((1 << 100) - 1)
    return (_NAA_IEEE_REGISTERED_EXTENDED << 124 | LOCAL_COMPANY_ID << 100 | vendor_specific).to_bytes(16)


@dataclass(frozen=True, slots=True)
class Identity:
    """The names by which initiators know a logical unit. They must be equal on every node that exports it.

    Args:
        vendor, product, revision: at most 8, 16 and 4 printable ASCII characters (SPC-4 4.4.1).
        serial: unit serial number, 1 to 64 printable ASCII characters.
        naa: NAA designator, 8 or 16 bytes; empty to make one of the serial number.

    Raises:
        ConfigError: one of them does not fit its field.
    """

    vendor: str = "CSVD"
    product: str = "VOLUME"
    revision: str = "1"
    serial: str = "0"
    naa: bytes = b""

    def __post_init__(self) -> None:
        _check_text("vendor", self.vendor, 8)
        _check_text("product", self.product, 16)
        _check_text("revision", self.revision, 4)
        _check_text("serial", self.serial, 64)
        if not self.naa:
            object.__setattr__(self, "naa", naa_of(self.serial))
        if _NAA_LENGTHS.get(self.naa[0] >> 4) != len(self.naa):
            raise ConfigError(
                "not an NAA designator",
                where="naa",
                why=f"{self.naa.hex()} is {len(self.naa)} bytes of NAA type {self.naa[0] >> 4}",
                hint="16 bytes that begin with the digit 6, or 8 bytes that begin with 2, 3 or 5",
            )


def _check_text(name: str, text: str, most: int) -> None:
    if not 1 <= len(text) <= most or not all(" " <= character <= "~" for character in text):
        raise ConfigError(f"{text!r} is not 1 to {most} printable ASCII characters", where=name)


@dataclass(slots=True, eq=False)
class LogicalUnit:
    """A logical unit of one target.

    Args:
        number: LUN, 0 to 16383.
        device: the disk behind it; opaque here, the glue knows it.
        block_bytes: logical block length, a power of two, 512 or more.
        block_count: how many logical blocks.
        identity: its names.
        read_only: writes are refused with WRITE PROTECTED.
        write_cache: WCE: a write may be GOOD before it is durable.
        removable: RMB of INQUIRY.
        maximum_transfer_bytes: MAXIMUM TRANSFER LENGTH of VPD page B0h; a longer transfer is refused.
        thin: the disk allocates blocks when they are written and can give them back. LBPME and VPD page B2h say so as
            soon as the command table holds a command that unmaps.
        soft_threshold_percent: of a thin one, how full it is when initiators are told so: THIN PROVISIONING SOFT
            THRESHOLD REACHED. 0 for never. It is the default of the mode page, which MODE SELECT may change.
        physical_block_bytes: what the disk writes at once; 0 for the logical block length.
        medium_rotation_rate: VPD page B1h: 0 not reported, 1 non-rotating.
        keeps: whether what must outlive a restart (saved mode pages, APTPL reservations) has a place to be kept.
        kept: what was kept before this start, by name; the glue writes it at `procedure.Keep`, nobody else.
        is_clustered: whether several nodes export it as one: what holds for it is the cluster's, not this node's.
        cluster: what the nodes agree on where it is clustered, once it is served.
        locks: the claims on its disk; logical units over the same disk share them.

    Raises:
        ConfigError: a value is out of its range.
    """

    number: int
    device: Any
    block_bytes: int
    block_count: int
    identity: Identity
    read_only: bool = False
    write_cache: bool = True
    removable: bool = False
    maximum_transfer_bytes: int = 8 << 20
    thin: bool = False
    soft_threshold_percent: int = 0
    physical_block_bytes: int = 0
    medium_rotation_rate: int = 0
    peripheral: Peripheral = Peripheral.DISK
    keeps: bool = False
    is_clustered: bool = False
    cluster: ClusterUnit | None = None
    kept: dict[str, Any] = field(default_factory=dict)
    locks: RangeLocks = field(default_factory=RangeLocks)
    maximum_transfer_blocks: int = field(init=False)

    def __post_init__(self) -> None:
        where = f"LUN {self.number}"
        if not 0 <= self.number < LUN_LIMIT:
            raise ConfigError(f"a LUN is a number from 0 to {LUN_LIMIT - 1}", where=where)
        if self.block_bytes < 512 or self.block_bytes & (self.block_bytes - 1):
            raise ConfigError(f"a block of {self.block_bytes} bytes is not a power of two from 512 up", where=where)
        self.physical_block_bytes = self.physical_block_bytes or self.block_bytes
        self.maximum_transfer_blocks = self.maximum_transfer_bytes // self.block_bytes
        if not 1 <= self.block_count <= (1 << 63) // self.block_bytes:
            raise ConfigError(f"{self.block_count} blocks of {self.block_bytes} bytes are no disk", where=where)
        ratio, rest = divmod(self.physical_block_bytes, self.block_bytes)
        if rest or ratio & (ratio - 1) or ratio >= 1 << 16:
            raise ConfigError(
                f"physical blocks of {self.physical_block_bytes} bytes are not 2**n logical blocks", where=where
            )
        if not 0 <= self.soft_threshold_percent <= 100:
            raise ConfigError(f"a soft threshold of {self.soft_threshold_percent} percent is not 0 to 100", where=where)
        if not 1 <= self.maximum_transfer_blocks <= 0xFFFF_FFFF:
            raise ConfigError(
                f"a maximum transfer of {self.maximum_transfer_bytes} bytes is not 1 to 2**32-1 blocks", where=where
            )

    @property
    def logical_blocks_per_physical_block_exponent(self) -> int:
        """READ CAPACITY(16): n where a physical block is 2**n logical blocks."""
        return (self.physical_block_bytes // self.block_bytes).bit_length() - 1
