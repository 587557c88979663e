"""Offloaded copy (ODX): POPULATE TOKEN, WRITE USING TOKEN, RECEIVE ROD TOKEN INFORMATION and REPORT ALL ROD TOKENS
(SBC-3 5.7, 5.21 and 5.41; SPC-4 6.25 and 6.30)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from construct import Bytes, Int8ub, Int32ub, Padding, Struct, this

from csvd.scsi.cdb import NACA, SERVICE_ACTION, CdbField, CdbLayout
from csvd.scsi.command import Command, DataDirection, Handler, Reservation
from csvd.scsi.commands.media import check_writable
from csvd.scsi.commands.receive_copy_results import (
    RECEIVE_LID4,
    RECEIVE_PLAIN,
    receiving_row,
    status_lid4,
)
from csvd.scsi.copy_movements import creator_descriptor, refusal_of_transfer
from csvd.scsi.copy_steps import Movement, carried_out, claims_of
from csvd.scsi.outcome import GOOD, Outcome, Reply, Status
from csvd.scsi.procedure import Background, Entropy, Now, Procedure, Steps
from csvd.scsi.range_locks import Claim
from csvd.scsi.rod_tokens import (
    BLOCK_DEVICE_ZERO,
    MANAGEMENT_BYTES,
    SECRET_BYTES,
    BlockRange,
    RodToken,
    rod_type_of,
    zero_token,
)
from csvd.scsi.sense import Asc, CheckCondition, FieldPointer, SenseKey, illegal_request, invalid_field_in_cdb
from csvd.scsi.third_party_copy import CopyOperation, CopyStatus
from csvd.scsi.token_lists import LONGEST_LIST_BYTES, PopulateList, WriteList, parse_populate, parse_write

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from csvd.scsi.device_server import DeviceServer, ItlNexus
    from csvd.scsi.logical_unit import LogicalUnit

POPULATE_TOKEN: Final = 0x10
WRITE_USING_TOKEN: Final = 0x11
RECEIVE_ROD_TOKEN_INFORMATION: Final = 0x07
REPORT_ALL_ROD_TOKENS: Final = 0x08

TOKEN_COMMAND: Final = CdbLayout(
    CdbField("operation_code", Int8ub),
    CdbField("service_action", Int8ub, SERVICE_ACTION),
    CdbField("reserved", Int32ub),
    CdbField("list_identifier", Int32ub, 0xFFFF_FFFF),
    CdbField("parameter_list_length", Int32ub, 0xFFFF_FFFF),
    CdbField("group_number", Int8ub),
    CdbField("control", Int8ub, NACA),
)
ROD_TOKEN_DESCRIPTORS: Final = Struct(
    "rod_token_descriptors_length" / Int32ub,
    "descriptors" / Bytes(this.rod_token_descriptors_length),
)
ALL_ROD_TOKENS: Final = Struct(
    "available_data" / Int32ub,
    Padding(4),
    "rod_management_token_list" / Bytes(this.available_data - 4),
)
_CREATING_ROD_CSCD: Final = bytes(2)

_unpack = TOKEN_COMMAND.unpacker("list_identifier", "parameter_list_length").unpack_from
_unpack_receive = RECEIVE_LID4.unpacker("list_identifier", "allocation_length").unpack_from
_unpack_report = RECEIVE_PLAIN.unpacker("allocation_length").unpack_from


def _parameter_list_length(_server: DeviceServer, cdb: bytes) -> int:
    length = int.from_bytes(cdb[10:14])
    return length if length <= LONGEST_LIST_BYTES else 0


def _parameters(length: int, data_out: memoryview) -> bytes:
    if length > LONGEST_LIST_BYTES:
        raise illegal_request(Asc.PARAMETER_LIST_LENGTH_ERROR)
    return bytes(data_out[:length])


def _populate_token(nexus: ItlNexus, cdb: bytes, data_out: memoryview) -> Outcome:
    list_identifier, length = _unpack(cdb)
    if not length:
        return GOOD
    return Procedure(_populate(nexus, list_identifier, parse_populate(_parameters(length, data_out), nexus.unit)))


def _populate(nexus: ItlNexus, list_identifier: int, asked: PopulateList) -> Steps:
    """Nothing is read before the token is used, so with IMMED or without the token is there at once."""
    unit, name = nexus.unit, nexus.nexus.name
    operation = nexus.server.copies.begin(name, list_identifier, POPULATE_TOKEN, unit.block_bytes)
    try:
        now_s = yield Now()
        secret = yield Entropy(SECRET_BYTES)
        made = nexus.nexus.device.tokens.make(
            secret,
            unit,
            creator_descriptor(unit),
            asked.ranges,
            name,
            inactivity_timeout_s=asked.inactivity_timeout_s,
            now_s=now_s,
        )
    except CheckCondition as condition:
        reply = nexus.server.refuse(condition)
        operation.end(CopyStatus.FAILED, reply)
        return reply
    operation.token = made.token
    operation.transferred_bytes = sum(one.blocks for one in asked.ranges) * unit.block_bytes
    operation.segments_processed = len(asked.ranges)
    operation.end(CopyStatus.COMPLETED)
    return GOOD


def _write_using_token(nexus: ItlNexus, cdb: bytes, data_out: memoryview) -> Outcome:
    list_identifier, length = _unpack(cdb)
    check_writable(nexus.server)
    if not length:
        return GOOD
    asked = parse_write(_parameters(length, data_out), nexus.unit)
    try:
        token = _token(nexus, asked.token)
        movements = _movements(nexus, token, asked)
    except CheckCondition as condition:
        _begin(nexus, list_identifier).end(CopyStatus.FAILED, nexus.server.refuse(condition))
        raise
    claims = claims_of(movements)
    if asked.immediate:
        return Procedure(_behind_the_answer(nexus, list_identifier, asked, token, movements, claims))
    return Procedure(_before_the_answer(nexus, list_identifier, asked, token, movements), claims)


def _begin(nexus: ItlNexus, list_identifier: int) -> CopyOperation:
    copies, name = nexus.server.copies, nexus.nexus.name
    return copies.begin(name, list_identifier, WRITE_USING_TOKEN, nexus.unit.block_bytes)


def _before_the_answer(
    nexus: ItlNexus, list_identifier: int, asked: WriteList, token: RodToken | None, movements: list[Movement]
) -> Steps:
    return (yield from _write(nexus, _begin(nexus, list_identifier), asked, token, movements))


def _behind_the_answer(
    nexus: ItlNexus,
    list_identifier: int,
    asked: WriteList,
    token: RodToken | None,
    movements: list[Movement],
    claims: list[Claim],
) -> Steps:
    operation = _begin(nexus, list_identifier)
    operation.status = CopyStatus.IN_BACKGROUND
    yield Background(_write(nexus, operation, asked, token, movements), claims)
    return GOOD


def _write(
    nexus: ItlNexus, operation: CopyOperation, asked: WriteList, token: RodToken | None, movements: list[Movement]
) -> Steps:
    tokens = nexus.nexus.device.tokens
    if token is not None:
        now_s = yield Now()
        try:
            tokens.touch(token, now_s)
        except CheckCondition as condition:
            reply = nexus.server.refuse(condition)
            operation.end(CopyStatus.FAILED, reply)
            return reply
    reply = yield from carried_out(nexus.server, operation, movements)
    if token is not None and asked.delete_token and reply.status == Status.GOOD:
        tokens.delete(token)
    return reply


def _token(nexus: ItlNexus, token: bytes) -> RodToken | None:
    """The token of a WRITE USING TOKEN; None for the block device zero token."""
    if rod_type_of(token) == BLOCK_DEVICE_ZERO:
        if token != zero_token():
            raise illegal_request(Asc.INVALID_TOKEN_OPERATION_TOKEN_CORRUPT)
        return None
    found = nexus.nexus.device.tokens.find(token, nexus.nexus.numbers)
    if found.unit.block_bytes != nexus.unit.block_bytes:
        raise illegal_request(Asc.INVALID_TOKEN_OPERATION_CAUSE_NOT_REPORTABLE)
    return found


def _movements(nexus: ItlNexus, token: RodToken | None, asked: WriteList) -> list[Movement]:
    """Which blocks of the token go to which of the addressed logical unit.

    Raises:
        CheckCondition: the token stands for too few blocks; a reservation of another nexus, or a medium that is not
            ready, keeps them from being read.
    """
    unit = nexus.unit
    if token is None:
        return [
            Movement(number, None, 0, unit, one.lba * unit.block_bytes, one.blocks * unit.block_bytes)
            for number, one in enumerate(asked.ranges)
        ]
    represented = sum(one.blocks for one in token.ranges)
    if asked.offset_blocks + sum(one.blocks for one in asked.ranges) > represented:
        raise illegal_request(Asc.INVALID_FIELD_IN_PARAMETER_LIST, FieldPointer(8, in_cdb=False))
    source = nexus.nexus.device.itl_nexus(nexus.nexus.name, token.unit.number)
    for one in token.ranges:
        if refusal_of_transfer(source, one.lba, one.blocks, is_read=True):
            raise CheckCondition(SenseKey.COPY_ABORTED, Asc.THIRD_PARTY_DEVICE_FAILURE)
    return list(_paired(token, asked, unit))


def _paired(token: RodToken, asked: WriteList, unit: LogicalUnit) -> Iterator[Movement]:
    """Walk the ranges of both sides at once; a movement ends where a range of either side does."""
    source = _runs(token.ranges, asked.offset_blocks)
    lba, left = 0, 0
    for number, one in enumerate(asked.ranges):
        done = 0
        while done < one.blocks:
            if not left:
                lba, left = next(source)
            blocks = min(left, one.blocks - done)
            yield Movement(
                number,
                token.unit,
                lba * unit.block_bytes,
                unit,
                (one.lba + done) * unit.block_bytes,
                blocks * unit.block_bytes,
            )
            lba, left, done = lba + blocks, left - blocks, done + blocks


def _runs(ranges: Sequence[BlockRange], skipped: int) -> Iterator[BlockRange]:
    """The ranges without their first blocks."""
    for one in ranges:
        if skipped < one.blocks:
            yield BlockRange(one.lba + skipped, one.blocks - skipped)
        skipped = max(0, skipped - one.blocks)


def _receive_rod_token_information(nexus: ItlNexus, cdb: bytes, _data_out: memoryview) -> Outcome:
    list_identifier, allocation_length = _unpack_receive(cdb)
    operation = nexus.server.copies.find(nexus.nexus.name, list_identifier)
    if operation is None or operation.service_action not in (POPULATE_TOKEN, WRITE_USING_TOKEN):
        raise invalid_field_in_cdb(RECEIVE_LID4.pointer("list_identifier"))
    descriptors = _CREATING_ROD_CSCD + operation.token if operation.token else b""
    behind = ROD_TOKEN_DESCRIPTORS.build({"rod_token_descriptors_length": len(descriptors), "descriptors": descriptors})
    return Reply(Status.GOOD, status_lid4(operation, in_blocks=True, behind=behind)[:allocation_length])


def _report_all_rod_tokens(nexus: ItlNexus, cdb: bytes, _data_out: memoryview) -> Outcome:
    (allocation_length,) = _unpack_report(cdb)
    return Procedure(_report(nexus, allocation_length))


def _report(nexus: ItlNexus, allocation_length: int) -> Steps:
    """The tokens of the logical units that this nexus may see."""
    now_s = yield Now()
    tokens = nexus.nexus.device.tokens
    tokens.expire(now_s)
    listed = b"".join(one.token[:MANAGEMENT_BYTES] for one in tokens if one.unit.number in nexus.nexus.numbers)
    data = ALL_ROD_TOKENS.build({"available_data": 4 + len(listed), "rod_management_token_list": listed})
    return Reply(Status.GOOD, data[:allocation_length])


def _row(name: str, service_action: int, handler: Handler, reservation: Reservation) -> Command:
    return Command(
        name=name,
        operation_code=0x83,
        service_action=service_action,
        layout=TOKEN_COMMAND,
        direction=DataDirection.DATA_OUT,
        reservation=reservation,
        handler=handler,
        data_out_length=_parameter_list_length,
        recommended_timeout_s=3600,
    )


COMMANDS: Final = (
    _row("POPULATE TOKEN", POPULATE_TOKEN, _populate_token, Reservation.CONFLICTS_WITH_EXCLUSIVE_ACCESS),
    _row("WRITE USING TOKEN", WRITE_USING_TOKEN, _write_using_token, Reservation.CONFLICTS),
    receiving_row(
        "RECEIVE ROD TOKEN INFORMATION",
        RECEIVE_ROD_TOKEN_INFORMATION,
        RECEIVE_LID4,
        _receive_rod_token_information,
    ),
    receiving_row("REPORT ALL ROD TOKENS", REPORT_ALL_ROD_TOKENS, RECEIVE_PLAIN, _report_all_rod_tokens),
)
