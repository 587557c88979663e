"""VPD pages B0h, Block Limits, and B2h, Logical Block Provisioning (SBC-3 6.5.3, 6.5.4; SBC-4 6.6.4 for atomic writes).

Both say what the commands do: their limits come from `block_limits`, their flags from `provisioning`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from construct import Const, GreedyBytes, Int8ub, Int16ub, Int32ub, Int64ub, Struct

from csvd.scsi.block_limits import limits_of
from csvd.scsi.provisioning import provisioning, threshold_exponent

if TYPE_CHECKING:
    from csvd.scsi.device_server import ItlNexus

BLOCK_LIMITS: Final = Struct(
    "wsnz" / Int8ub,
    "maximum_compare_and_write_length" / Int8ub,
    "optimal_transfer_length_granularity" / Int16ub,
    "maximum_transfer_length" / Int32ub,
    # Not reported: the page cache below takes any length well.
    "optimal_transfer_length" / Const(0, Int32ub),
    "maximum_prefetch_length" / Int32ub,
    "maximum_unmap_lba_count" / Int32ub,
    "maximum_unmap_block_descriptor_count" / Int32ub,
    "optimal_unmap_granularity" / Int32ub,
    "unmap_granularity_alignment" / Int32ub,
    "maximum_write_same_length" / Int64ub,
    "maximum_atomic_transfer_length" / Int32ub,
    # Any block may begin an atomic write, any number of blocks may be one, and it has no boundaries inside.
    "atomic_alignment" / Const(0, Int32ub),
    "atomic_transfer_length_granularity" / Const(0, Int32ub),
    "maximum_atomic_transfer_length_with_atomic_boundary" / Const(0, Int32ub),
    "maximum_atomic_boundary_size" / Const(0, Int32ub),
)
LOGICAL_BLOCK_PROVISIONING: Final = Struct(
    "threshold_exponent" / Int8ub,
    "flags" / Int8ub,
    "provisioning_type" / Int8ub,
    "reserved" / Const(0, Int8ub),
    "provisioning_group_descriptor" / GreedyBytes,
)

_UGAVALID: Final = 1 << 31
_THIN_PROVISIONED: Final = 2
_LBPU: Final = 0x80
_LBPWS: Final = 0x40
_LBPWS10: Final = 0x20
_LBPRZ: Final = 0x04
_ANC_SUP: Final = 0x02


def block_limits(nexus: ItlNexus) -> bytes:
    """The body of page B0h."""
    limits = limits_of(nexus.unit)
    # A granularity of one block says nothing, and QEMU 7.2 must not hear it of a disk of 4,096-byte blocks: it keeps a
    # map of what is allocated then, asks for the status of 2 GiB that are no whole number of such blocks, and aborts.
    coarse = limits.unmap and limits.granularity > 1
    return BLOCK_LIMITS.build(
        {
            "wsnz": limits.write_same_non_zero,
            "maximum_compare_and_write_length": limits.compare_and_write,
            "optimal_transfer_length_granularity": limits.granularity if limits.granularity > 1 else 0,
            "maximum_transfer_length": limits.transfer,
            "maximum_prefetch_length": limits.prefetch,
            "maximum_unmap_lba_count": limits.unmap,
            "maximum_unmap_block_descriptor_count": limits.unmap_descriptors,
            # The disk begins on a physical block, so the alignment, which is valid, is zero.
            "optimal_unmap_granularity": limits.granularity if coarse else 0,
            "unmap_granularity_alignment": _UGAVALID if coarse else 0,
            "maximum_write_same_length": limits.write_same,
            "maximum_atomic_transfer_length": limits.atomic,
        }
    )


def logical_block_provisioning(nexus: ItlNexus) -> bytes:
    """The body of page B2h."""
    managed = provisioning(nexus.unit, nexus.server.commands)
    flags = {
        _LBPU: managed.lbpu,
        _LBPWS: managed.lbpws,
        _LBPWS10: managed.lbpws10,
        _LBPRZ: managed.lbprz,
        _ANC_SUP: managed.anc_sup,
    }
    return LOGICAL_BLOCK_PROVISIONING.build(
        {
            "threshold_exponent": threshold_exponent(nexus.unit) if managed.lbpme else 0,
            "flags": sum(bit for bit, is_set in flags.items() if is_set),
            "provisioning_type": _THIN_PROVISIONED if managed.lbpme else 0,
            "provisioning_group_descriptor": b"",
        }
    )
