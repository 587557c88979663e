from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from csvd.scsi.command import Command, DataDirection
from csvd.scsi.commands import COMMANDS
from csvd.scsi.commands.media import COMMANDS as MEDIA
from csvd.scsi.logical_unit import Identity, LogicalUnit
from csvd.scsi.lun import LUN_LIMIT, encode_lun, lun_spellings
from csvd.scsi.outcome import FLUSH, READ, WRITE, Status, Transfer
from csvd.scsi.procedure import Procedure
from csvd.scsi.target_device import TargetDevice
from tests.unit.scsi.store import Store

BLOCKS = 5000
NEXUS = "iqn.2026-11.test:host,i,0x1"
TRANSFERS = {command.operation_code for command in MEDIA}
COMMAND_CODES = sorted({command.operation_code for command in COMMANDS})


def a_target(*, read_only: bool) -> TargetDevice:
    unit = LogicalUnit(
        number=0,
        device=None,
        block_bytes=512,
        block_count=BLOCKS,
        identity=Identity(),
        maximum_transfer_bytes=1 << 20,
        read_only=read_only,
    )
    target = TargetDevice({0: unit})
    target.nexus_opened(NEXUS)
    target.start(NEXUS, 0, bytes(16), memoryview(b""))
    return target


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
@given(data=st.data())
def test_the_derived_struct_reads_every_field_as_construct_does(command: Command, data: st.DataObject) -> None:
    layout = command.layout
    cdb = data.draw(st.binary(min_size=layout.length, max_size=16))
    wanted = data.draw(st.lists(st.sampled_from(layout.names), unique=True))
    wanted.sort(key=layout.names.index)
    parsed = layout.construct.parse(cdb)
    assert layout.unpacker(*wanted).unpack_from(cdb) == tuple(parsed[name] for name in wanted)
    assert layout.unpacker(*layout.names).size == layout.construct.sizeof() == layout.length
    assert layout.construct.build(parsed) == cdb[: layout.length]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_a_layout_is_as_long_as_its_operation_code_says(command: Command) -> None:
    by_group = {0: 6, 1: 10, 2: 10, 4: 16, 5: 12}
    assert command.layout.length == by_group[command.operation_code >> 5]
    assert command.layout.control_offset == command.layout.length - 1
    assert len(command.usage_data()) == command.layout.length
    assert (command.direction is DataDirection.DATA_OUT) == (command.data_out_length.__name__ != "no_data_out")


@given(
    cdb=st.one_of(
        st.binary(max_size=40),
        st.builds(
            lambda code, rest: bytes((code, *rest)),
            st.sampled_from(COMMAND_CODES),
            st.lists(st.sampled_from([0, 0, 0, 1, 4, 0x0C, 0x0D, 0x10, 0x13, 0xFF]), max_size=20),
        ),
    ),
    lun=st.one_of(st.just(0), st.just(0xC101 << 48), st.integers(0, (1 << 64) - 1)),
    data_out=st.binary(max_size=64),
    read_only=st.booleans(),
    attention=st.booleans(),
)
@example(cdb=b"\x04\x10", lun=0, data_out=b"", read_only=False, attention=False)
def test_whatever_a_peer_sends_ends_in_a_reply_or_a_transfer_within_the_disk(
    cdb: bytes, lun: int, data_out: bytes, read_only: bool, attention: bool
) -> None:
    target = a_target(read_only=read_only)
    if attention:
        target.logical_unit_reset(lun, "another")
    # Negative where only the parameter list says how long it is: at most that many bytes.
    length = target.data_out_length(lun, cdb)
    assert abs(length) <= 1 << 20
    outcome = target.start(NEXUS, lun, cdb, memoryview(data_out))
    if isinstance(outcome, Procedure):
        for claim in outcome.claims:
            assert 0 <= claim.offset_bytes < claim.offset_bytes + claim.length_bytes <= BLOCKS * 512
        # The store refuses every request that is not within the disk.
        assert Store().run(outcome).status in (Status.GOOD, Status.CHECK_CONDITION)
    elif isinstance(outcome, Transfer):
        assert outcome.offset_bytes >= 0
        assert outcome.length_bytes > 0
        assert outcome.offset_bytes + outcome.length_bytes <= BLOCKS * 512
        assert outcome.operation in (READ, WRITE, FLUSH)
        assert outcome.operation == FLUSH or outcome.length_bytes <= 1 << 20
        assert length == (outcome.length_bytes if outcome.operation == WRITE else 0)
        assert not (read_only and outcome.operation == WRITE)
    else:
        assert outcome.status in (Status.GOOD, Status.CHECK_CONDITION, Status.RESERVATION_CONFLICT)
        assert (outcome.status == Status.CHECK_CONDITION) == bool(outcome.sense)
        assert length == 0 or attention or lun != 0 or cdb[0] not in TRANSFERS


@given(st.integers(0, LUN_LIMIT - 1))
def test_every_spelling_of_a_lun_reaches_its_unit_and_no_other(number: int) -> None:
    unit = LogicalUnit(number=number, device=None, block_bytes=512, block_count=1, identity=Identity())
    target = TargetDevice({number: unit})
    spellings = list(lun_spellings(number))
    assert encode_lun(number) in spellings
    assert all(target.has_lun(spelling) for spelling in spellings)
    neighbour = (number + 1) % LUN_LIMIT
    assert not any(target.has_lun(spelling) for spelling in lun_spellings(neighbour))
