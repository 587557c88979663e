"""The structs of the express path say what the declarations say."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from csvd.iscsi.codes import BHS_BYTES, Opcode
from csvd.iscsi.layouts import DATA_IN, LAYOUTS, SCSI_COMMAND, SCSI_RESPONSE, build, picking
from csvd.scsi.commands.media import TRANSFER_10, TRANSFER_16
from csvd.target import express

HEADERS = st.binary(min_size=BHS_BYTES, max_size=BHS_BYTES)
WORDS = st.integers(0, 2**32 - 1)
BYTES = st.integers(0, 255)


@given(st.sampled_from(sorted(LAYOUTS)), HEADERS, st.data())
def test_what_is_picked_of_a_layout_is_what_the_declaration_reads(
    opcode: Opcode, header: bytes, data: st.DataObject
) -> None:
    layout: Any = LAYOUTS[opcode]
    names = [part.name for part in layout.subcons if part.name]
    chosen = [name for name in names if data.draw(st.booleans())]
    fields = layout.parse(header)
    picked = picking(layout, *chosen)
    assert picked.size == BHS_BYTES
    values = picked.unpack(header)
    assert values == tuple(fields[name] for name in chosen)
    assert layout.parse(picked.pack(*values)) == layout.parse(
        layout.build({name: fields[name] if name in chosen else layout.parse(bytes(48))[name] for name in names})
    )


@given(st.sampled_from([0x28, 0x88, 0x2A, 0x8A]), HEADERS)
def test_a_command_is_read_as_its_two_declarations_read_it(code: int, header: bytes) -> None:
    pdu: Any = SCSI_COMMAND.parse(header)
    layout: Any = (TRANSFER_10 if code in (0x28, 0x2A) else TRANSFER_16).construct
    cdb = layout.parse(pdu.cdb)
    assert express._UNPACK[code](header, 0) == (
        pdu.opcode,
        pdu.flags,
        pdu.lengths,
        pdu.lun,
        pdu.initiator_task_tag,
        pdu.expected_data_transfer_length,
        pdu.cmd_sn,
        cdb.flags,
        cdb.logical_block_address,
        cdb.transfer_length,
        cdb.control,
    )


@given(BYTES, WORDS, WORDS, WORDS, WORDS, WORDS)
def test_answers_are_packed_as_the_declarations_build_them(
    flags: int, length: int, tag: int, stat_sn: int, exp_cmd_sn: int, max_cmd_sn: int
) -> None:
    numbers = {"stat_sn": stat_sn, "exp_cmd_sn": exp_cmd_sn, "max_cmd_sn": max_cmd_sn}
    packed = bytearray(BHS_BYTES)
    express._pack_data_in(packed, 0, 0x25, flags, length, tag, 0xFFFFFFFF, stat_sn, exp_cmd_sn, max_cmd_sn)
    fields = {"flags": flags, "lengths": length, "target_transfer_tag": 0xFFFFFFFF, "initiator_task_tag": tag}
    assert packed == build(Opcode.DATA_IN, **fields, **numbers)
    assert DATA_IN.parse(packed).residual_count == 0
    packed = bytearray(BHS_BYTES)
    express._pack_response(packed, 0, 0x21, flags, tag, stat_sn, exp_cmd_sn, max_cmd_sn)
    assert packed == build(Opcode.SCSI_RESPONSE, flags=flags, initiator_task_tag=tag, **numbers)
    assert SCSI_RESPONSE.parse(packed).status == 0
