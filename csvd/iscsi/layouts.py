"""The layout of every basic header segment, declared once (RFC 7143 section 11).

Each declaration is a flat construct ``Struct``: the readable form, used on cold paths and in tests. The data path
packs and unpacks with a ``struct.Struct`` derived from it (:func:`derive`), which is some 30 times faster; a property
test holds the two equal. TotalAHSLength (8 bits, in words of 4 bytes) and DataSegmentLength (24 bits) are declared as
the one 32-bit word ``lengths``, for neither construct's nor struct's 24-bit form is fast.
"""

from __future__ import annotations

import struct
from typing import Any, Final, NamedTuple

from construct import Bytes, Int8ub, Int16ub, Int32ub, Int64ub, Padded, Padding, Struct

from csvd.iscsi.codes import BHS_BYTES, Opcode

NOP_OUT = Struct(
    "opcode" / Int8ub,
    "flags" / Int8ub,
    Padding(2),
    "lengths" / Int32ub,
    "lun" / Int64ub,
    "initiator_task_tag" / Int32ub,
    "target_transfer_tag" / Int32ub,
    "cmd_sn" / Int32ub,
    "exp_stat_sn" / Int32ub,
    Padding(16),
)
"""RFC 7143 section 11.18."""

SCSI_COMMAND = Struct(
    "opcode" / Int8ub,
    "flags" / Int8ub,
    Padding(2),
    "lengths" / Int32ub,
    "lun" / Int64ub,
    "initiator_task_tag" / Int32ub,
    "expected_data_transfer_length" / Int32ub,
    "cmd_sn" / Int32ub,
    "exp_stat_sn" / Int32ub,
    "cdb" / Bytes(16),
)
"""RFC 7143 section 11.3. The PRI field that RFC 7144 section 6.1 puts into byte 2 is passed over: a device server need
not look at the priority of a command (SAM-5 section 8.7)."""

TASK_MANAGEMENT_REQUEST = Struct(
    "opcode" / Int8ub,
    "function" / Int8ub,
    Padding(2),
    "lengths" / Int32ub,
    "lun" / Int64ub,
    "initiator_task_tag" / Int32ub,
    "referenced_task_tag" / Int32ub,
    "cmd_sn" / Int32ub,
    "exp_stat_sn" / Int32ub,
    "ref_cmd_sn" / Int32ub,
    "exp_data_sn" / Int32ub,
    Padding(8),
)
"""RFC 7143 section 11.5."""

LOGIN_REQUEST = Struct(
    "opcode" / Int8ub,
    "flags" / Int8ub,
    "version_max" / Int8ub,
    "version_min" / Int8ub,
    "lengths" / Int32ub,
    "isid" / Bytes(6),
    "tsih" / Int16ub,
    "initiator_task_tag" / Int32ub,
    "cid" / Int16ub,
    Padding(2),
    "cmd_sn" / Int32ub,
    "exp_stat_sn" / Int32ub,
    Padding(16),
)
"""RFC 7143 section 11.12."""

TEXT_REQUEST = NOP_OUT
"""RFC 7143 section 11.10: the same places as NOP-Out."""

DATA_OUT = Struct(
    "opcode" / Int8ub,
    "flags" / Int8ub,
    Padding(2),
    "lengths" / Int32ub,
    "lun" / Int64ub,
    "initiator_task_tag" / Int32ub,
    "target_transfer_tag" / Int32ub,
    Padding(4),
    "exp_stat_sn" / Int32ub,
    Padding(4),
    "data_sn" / Int32ub,
    "buffer_offset" / Int32ub,
    Padding(4),
)
"""RFC 7143 section 11.7."""

LOGOUT_REQUEST = Struct(
    "opcode" / Int8ub,
    "reason" / Int8ub,
    Padding(2),
    "lengths" / Int32ub,
    Padding(8),
    "initiator_task_tag" / Int32ub,
    "cid" / Int16ub,
    Padding(2),
    "cmd_sn" / Int32ub,
    "exp_stat_sn" / Int32ub,
    Padding(16),
)
"""RFC 7143 section 11.14."""

SNACK_REQUEST = Struct(
    "opcode" / Int8ub,
    "flags" / Int8ub,
    Padding(2),
    "lengths" / Int32ub,
    "lun" / Int64ub,
    "initiator_task_tag" / Int32ub,
    "target_transfer_tag" / Int32ub,
    Padding(4),
    "exp_stat_sn" / Int32ub,
    Padding(8),
    "beg_run" / Int32ub,
    "run_length" / Int32ub,
)
"""RFC 7143 section 11.16."""

NOP_IN = Struct(
    "opcode" / Int8ub,
    "flags" / Int8ub,
    Padding(2),
    "lengths" / Int32ub,
    "lun" / Int64ub,
    "initiator_task_tag" / Int32ub,
    "target_transfer_tag" / Int32ub,
    "stat_sn" / Int32ub,
    "exp_cmd_sn" / Int32ub,
    "max_cmd_sn" / Int32ub,
    Padding(12),
)
"""RFC 7143 section 11.19."""

SCSI_RESPONSE = Struct(
    "opcode" / Int8ub,
    "flags" / Int8ub,
    "response" / Int8ub,
    "status" / Int8ub,
    "lengths" / Int32ub,
    Padding(8),
    "initiator_task_tag" / Int32ub,
    "snack_tag" / Int32ub,
    "stat_sn" / Int32ub,
    "exp_cmd_sn" / Int32ub,
    "max_cmd_sn" / Int32ub,
    "exp_data_sn" / Int32ub,
    "bidirectional_read_residual_count" / Int32ub,
    "residual_count" / Int32ub,
)
"""RFC 7143 section 11.4. The Status Qualifier of RFC 7144 section 6.2 stands in what is padding here, and is zero:
there is nothing to add to a status."""

TASK_MANAGEMENT_RESPONSE = Struct(
    "opcode" / Int8ub,
    "flags" / Int8ub,
    "response" / Int8ub,
    Padding(1),
    "lengths" / Int32ub,
    "additional_response_information" / Bytes(3),
    Padding(5),
    "initiator_task_tag" / Int32ub,
    Padding(4),
    "stat_sn" / Int32ub,
    "exp_cmd_sn" / Int32ub,
    "max_cmd_sn" / Int32ub,
    Padding(12),
)
"""RFC 7143 section 11.6, RFC 7144 section 6.3.2."""

LOGIN_RESPONSE = Struct(
    "opcode" / Int8ub,
    "flags" / Int8ub,
    "version_max" / Int8ub,
    "version_active" / Int8ub,
    "lengths" / Int32ub,
    "isid" / Bytes(6),
    "tsih" / Int16ub,
    "initiator_task_tag" / Int32ub,
    Padding(4),
    "stat_sn" / Int32ub,
    "exp_cmd_sn" / Int32ub,
    "max_cmd_sn" / Int32ub,
    "status" / Int16ub,
    Padding(10),
)
"""RFC 7143 section 11.13; Status-Class and Status-Detail as one number."""

TEXT_RESPONSE = NOP_IN
"""RFC 7143 section 11.11: the same places as NOP-In."""

DATA_IN = Struct(
    "opcode" / Int8ub,
    "flags" / Int8ub,
    Padding(1),
    "status" / Int8ub,
    "lengths" / Int32ub,
    "lun" / Int64ub,
    "initiator_task_tag" / Int32ub,
    "target_transfer_tag" / Int32ub,
    "stat_sn" / Int32ub,
    "exp_cmd_sn" / Int32ub,
    "max_cmd_sn" / Int32ub,
    "data_sn" / Int32ub,
    "buffer_offset" / Int32ub,
    "residual_count" / Int32ub,
)
"""RFC 7143 section 11.7."""

LOGOUT_RESPONSE = Struct(
    "opcode" / Int8ub,
    "flags" / Int8ub,
    "response" / Int8ub,
    Padding(1),
    "lengths" / Int32ub,
    Padding(8),
    "initiator_task_tag" / Int32ub,
    Padding(4),
    "stat_sn" / Int32ub,
    "exp_cmd_sn" / Int32ub,
    "max_cmd_sn" / Int32ub,
    Padding(4),
    "time2wait" / Int16ub,
    "time2retain" / Int16ub,
    Padding(4),
)
"""RFC 7143 section 11.15."""

R2T = Struct(
    "opcode" / Int8ub,
    "flags" / Int8ub,
    Padding(2),
    "lengths" / Int32ub,
    "lun" / Int64ub,
    "initiator_task_tag" / Int32ub,
    "target_transfer_tag" / Int32ub,
    "stat_sn" / Int32ub,
    "exp_cmd_sn" / Int32ub,
    "max_cmd_sn" / Int32ub,
    "r2t_sn" / Int32ub,
    "buffer_offset" / Int32ub,
    "desired_data_transfer_length" / Int32ub,
)
"""RFC 7143 section 11.8."""

ASYNC_MESSAGE = Struct(
    "opcode" / Int8ub,
    "flags" / Int8ub,
    Padding(2),
    "lengths" / Int32ub,
    "lun" / Int64ub,
    "initiator_task_tag" / Int32ub,
    Padding(4),
    "stat_sn" / Int32ub,
    "exp_cmd_sn" / Int32ub,
    "max_cmd_sn" / Int32ub,
    "async_event" / Int8ub,
    "async_vcode" / Int8ub,
    "parameter1" / Int16ub,
    "parameter2" / Int16ub,
    "parameter3" / Int16ub,
    Padding(4),
)
"""RFC 7143 section 11.9."""

REJECT = Struct(
    "opcode" / Int8ub,
    "flags" / Int8ub,
    "reason" / Int8ub,
    Padding(1),
    "lengths" / Int32ub,
    Padding(8),
    "initiator_task_tag" / Int32ub,
    Padding(4),
    "stat_sn" / Int32ub,
    "exp_cmd_sn" / Int32ub,
    "max_cmd_sn" / Int32ub,
    "data_sn" / Int32ub,
    Padding(8),
)
"""RFC 7143 section 11.17."""


class Fast(NamedTuple):
    """The derived form of a layout: ``packing`` takes and gives the values of ``fields`` in this order."""

    packing: struct.Struct
    fields: tuple[str, ...]


def derive(layout: Any) -> Fast:
    """Derive the ``struct.Struct`` of a flat construct ``Struct``.

    Raises:
        TypeError: the declaration has a part that is neither a big-endian integer, ``Bytes`` nor ``Padding``.
    """
    codes, fields = [">"], []
    for part in layout.subcons:
        inner = part.subcon if part.name else part
        fmt = getattr(inner, "fmtstr", None)
        if isinstance(fmt, str) and fmt.startswith(">"):
            codes.append(fmt[1:])
            fields.append(part.name)
        elif isinstance(inner, Padded):
            codes.append(f"{inner.length}x")
        elif isinstance(inner, Bytes):
            codes.append(f"{inner.length}s")
            fields.append(part.name)
        else:
            raise TypeError(f"{part!r} has no fast form")
    return Fast(struct.Struct("".join(codes)), tuple(fields))


def picking(layout: Any, *names: str) -> struct.Struct:
    """Derive a ``struct.Struct`` of these fields alone, named in the order of the declaration.

    What is not named is passed over by unpacking, and is zero in what is packed: for the data path, where most fields
    of a header are.
    """
    wanted = list(names)
    code = ">"
    for part in layout.subcons:
        if wanted and part.name == wanted[0]:
            code += derive(Struct(part)).packing.format[1:]
            wanted.pop(0)
        else:
            code += f"{part.sizeof()}x"
    assert not wanted, f"{wanted} are not fields in the order of the declaration"
    return struct.Struct(code)


LAYOUTS: Final[dict[Opcode, Any]] = {
    Opcode.NOP_OUT: NOP_OUT,
    Opcode.SCSI_COMMAND: SCSI_COMMAND,
    Opcode.TASK_MANAGEMENT_REQUEST: TASK_MANAGEMENT_REQUEST,
    Opcode.LOGIN_REQUEST: LOGIN_REQUEST,
    Opcode.TEXT_REQUEST: TEXT_REQUEST,
    Opcode.DATA_OUT: DATA_OUT,
    Opcode.LOGOUT_REQUEST: LOGOUT_REQUEST,
    Opcode.SNACK_REQUEST: SNACK_REQUEST,
    Opcode.NOP_IN: NOP_IN,
    Opcode.SCSI_RESPONSE: SCSI_RESPONSE,
    Opcode.TASK_MANAGEMENT_RESPONSE: TASK_MANAGEMENT_RESPONSE,
    Opcode.LOGIN_RESPONSE: LOGIN_RESPONSE,
    Opcode.TEXT_RESPONSE: TEXT_RESPONSE,
    Opcode.DATA_IN: DATA_IN,
    Opcode.LOGOUT_RESPONSE: LOGOUT_RESPONSE,
    Opcode.R2T: R2T,
    Opcode.ASYNC_MESSAGE: ASYNC_MESSAGE,
    Opcode.REJECT: REJECT,
}
"""Layout by opcode: every PDU of RFC 7143."""

FAST: Final[dict[Opcode, Fast]] = {opcode: derive(layout) for opcode, layout in LAYOUTS.items()}

PACKING: Final[dict[Opcode, struct.Struct]] = {opcode: fast.packing for opcode, fast in FAST.items()}
"""The derived ``struct.Struct`` by opcode; the values stand in the order of the declaration, padding left out."""

LENGTHS: Final = struct.Struct(">I")
"""The word at byte 4 of every header: TotalAHSLength << 24 | DataSegmentLength."""

PADDING: Final = (b"", b"\0\0\0", b"\0\0", b"\0")
"""What pads a data segment of length n to a multiple of 4: ``PADDING[n & 3]`` (RFC 7143 section 11.2.3)."""

if any(fast.packing.size != BHS_BYTES for fast in FAST.values()):  # pragma: no cover - a wrong declaration
    raise AssertionError("a layout is not 48 bytes long")


def build(opcode: Opcode, /, **fields: Any) -> bytes:
    """Build one header by field names; what is not named is zero. For cold paths and tests."""
    layout = LAYOUTS[opcode]
    packing, names = FAST[opcode]
    values: dict[str, Any] = dict(zip(names, packing.unpack(bytes(BHS_BYTES)), strict=True))
    values["opcode"] = int(opcode)
    unknown = fields.keys() - values.keys()
    if unknown:
        raise TypeError(f"{opcode.name} has no field {', '.join(sorted(unknown))}")
    built: bytes = layout.build(values | fields)
    return built
