"""What a target answers to the commands of a disk, and how ranges are cut: any bytes, any limits."""

from __future__ import annotations

import itertools
from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from initiator.errors import MalformedAnswer
from initiator.scatter import pieces
from initiator.scsi import (
    extended_copy,
    inquiry,
    log,
    mode,
    operation_codes,
    provisioning,
    reservations,
    rod_token,
    target_ports,
    transport_id,
)
from initiator.scsi.answers import Capacity
from initiator.scsi.inquiry import BlockLimits
from initiator.scsi.provisioning import Extent
from initiator.scsi.ranges import cut, transfer_granularity

BYTES = st.binary(max_size=400)
LBAS = st.integers(0, 1 << 40)
SMALL = st.integers(0, 300)


@given(LBAS, st.integers(0, 5000), st.integers(1, 300), SMALL, SMALL)
@settings(deadline=None)
def test_parts_are_the_range_and_end_at_borders(
    lba: int, blocks: int, most: int, granularity: int, alignment: int
) -> None:
    parts = list(cut(lba, blocks, most, granularity, alignment))
    at = lba
    for first, count in parts:
        assert first == at
        assert 0 < count <= most
        at += count
    assert at == lba + blocks
    if 1 < granularity <= most:
        assert all((first + count - alignment) % granularity == 0 for first, count in parts[:-1])


@given(st.integers(0, 15), SMALL, st.integers(1, 3000))
@settings(deadline=None)
def test_a_granularity_always_fits_into_a_command(exponent: int, optimal: int, most: int) -> None:
    capacity = Capacity(1000, 512, 512 << exponent)
    granularity = transfer_granularity(capacity, BlockLimits(optimal_transfer_length_granularity=optimal), most)
    assert 1 <= granularity <= most
    assert granularity == 1 or granularity % (1 << exponent) == 0


@given(st.lists(st.tuples(st.integers(0, 900), st.integers(0, 99))), SMALL, st.integers(0, 9), SMALL)
@settings(deadline=None)
def test_unmap_batches_are_all_blocks_once_within_the_limits(
    pairs: list[tuple[int, int]], blocks: int, descriptors: int, granularity: int
) -> None:
    limits = BlockLimits(
        maximum_unmap_lba_count=blocks,
        maximum_unmap_block_descriptor_count=descriptors,
        optimal_unmap_granularity=granularity,
    )
    want = sorted({lba for first, count in pairs for lba in range(first, first + count)})
    batches = list(provisioning.unmap_batches(provisioning.merge((Extent(*pair) for pair in pairs), 1000), limits))
    assert [lba for batch in batches for extent in batch for lba in range(extent.lba, extent.end)] == want
    assert all(len(batch) <= max(1, descriptors) for batch in batches)
    assert not blocks or all(sum(extent.blocks for extent in batch) <= blocks for batch in batches)


@given(st.lists(st.integers(0, 200_000), max_size=12), st.integers(1, 9), st.integers(0, 50))
@settings(deadline=None)
def test_pieces_are_all_bytes_in_order_and_whole_blocks(lengths: list[int], most: int, lba: int) -> None:
    block_bytes = 4096
    lengths.append(-sum(lengths) % block_bytes)
    buffers = [memoryview(bytes((number,)) * length) for number, length in enumerate(lengths)]
    at, data = lba, b""
    for piece in pieces(lba, buffers, block_bytes, lambda first: most - first % most):
        assert piece.lba == at
        assert 0 < piece.blocks <= most - at % most
        assert sum(map(len, piece.views)) == piece.blocks * block_bytes
        data += b"".join(piece.views)
        at += piece.blocks
    assert data == b"".join(buffers)


@given(BYTES, st.integers(0, 1 << 40), st.integers(1, 1 << 20))
@settings(deadline=None)
def test_any_lba_status_goes_on_or_is_malformed(data: bytes, lba: int, blocks: int) -> None:
    with suppress(MalformedAnswer):
        runs = provisioning.parse_lba_status(data, lba, lba + blocks)
        assert runs[0].lba == lba
        assert lba < runs[-1].end <= lba + blocks
        assert all(run.blocks > 0 for run in runs)
        assert all(one.end == other.lba for one, other in itertools.pairwise(runs))


@given(st.lists(st.tuples(st.integers(1, 100), st.integers(0, 15)), min_size=1, max_size=20), st.integers(0, 30))
@settings(deadline=None)
def test_an_honest_lba_status_is_told_as_it_is(runs: list[tuple[int, int]], skipped: int) -> None:
    data, first = b"", 1000
    want: dict[int, bool] = {}
    for blocks, status in runs:
        data += first.to_bytes(8, "big") + blocks.to_bytes(4, "big") + bytes((status, 0, 0, 0))
        want |= dict.fromkeys(range(first, first + blocks), status in (0, *range(3, 16)))
        first += blocks
    lba = 1000 + min(skipped, runs[0][0] - 1)
    answer = (len(data) + 4).to_bytes(4, "big") + bytes(4) + data
    found = provisioning.parse_lba_status(answer, lba, first)
    assert {at: run.mapped for run in found for at in range(run.lba, run.end)} == {
        at: mapped for at, mapped in want.items() if at >= lba
    }


@given(BYTES)
@settings(deadline=None)
def test_any_list_of_commands_is_parsed_or_malformed(data: bytes) -> None:
    for parse in (operation_codes.parse_all, operation_codes.parse_one):
        with suppress(MalformedAnswer):
            parse(data)
    with suppress(MalformedAnswer):
        assert all(command.name for command in operation_codes.parse_all(data))


@given(BYTES)
@settings(deadline=None)
def test_any_reservation_data_is_parsed_or_malformed(data: bytes) -> None:
    honest = data[:4] + len(data[4:]).to_bytes(4, "big") + data[4:]
    for answer in (data, honest):
        for parse in (reservations.parse_keys, reservations.parse_reservation, reservations.parse_capabilities):
            with suppress(MalformedAnswer):
                parse(answer)
        with suppress(MalformedAnswer):
            for registrant in reservations.parse_full_status(answer).registrants:
                assert registrant.initiator.text.isprintable()


@given(st.from_regex(r"iqn\.[a-z0-9.:\-]{1,200}", fullmatch=True), st.none() | st.binary(min_size=6, max_size=6), BYTES)
@settings(deadline=None)
def test_a_transport_id_goes_to_the_wire_and_back(name: str, isid: bytes | None, more: bytes) -> None:
    raw = transport_id.iscsi(name, isid)
    found = transport_id.parse(raw + more)
    assert (found.name, found.isid, found.raw) == (name, "" if isid is None else isid.hex(), raw)


@given(BYTES, st.booleans())
@settings(deadline=None)
def test_any_mode_data_is_parsed_or_malformed(data: bytes, honest: bool) -> None:
    if honest:
        data = (len(data) + 6).to_bytes(2, "big") + bytes(6) + data
    with suppress(MalformedAnswer):
        for page in mode.parse(data).pages:
            assert all(isinstance(value, int) for value in page.fields().values())
            assert mode.parse(mode_data(page.encode())).pages[0].body == page.body


def mode_data(page: bytes) -> bytes:
    return (len(page) + 6).to_bytes(2, "big") + bytes(6) + page


@given(st.sampled_from([0x00, 0x0C, 0x0D]), st.sampled_from([0x00, 0xFF]), BYTES, st.booleans())
@settings(deadline=None)
def test_any_log_page_is_parsed_or_malformed(code: int, subpage: int, data: bytes, honest: bool) -> None:
    if honest:
        data = bytes((code | (0x40 if subpage else 0), subpage)) + len(data).to_bytes(2, "big") + data
    with suppress(MalformedAnswer):
        page = log.parse(code, subpage, data)
        log.parse_supported(page)
        assert page.temperature_celsius is None or code == 0x0D
        assert page.used_resources is None or code == 0x0C


@given(BYTES, st.booleans())
@settings(deadline=None)
def test_any_target_port_groups_are_parsed_or_malformed(data: bytes, honest: bool) -> None:
    with suppress(MalformedAnswer):
        target_ports.parse(len(data).to_bytes(4, "big") + data if honest else data)


@given(st.sampled_from([0x85, 0x86, 0x87, 0x88, 0x8F, 0xB3]), BYTES)
@settings(deadline=None)
def test_any_vpd_page_is_parsed_or_malformed(code: int, body: bytes) -> None:
    with suppress(MalformedAnswer):
        inquiry.parse_vpd(code, bytes((0, code)) + len(body).to_bytes(2, "big") + body)


@given(BYTES)
@settings(deadline=None)
def test_any_answer_on_a_copy_is_parsed_or_malformed(data: bytes) -> None:
    for parse in (
        extended_copy.parse_operating_parameters,
        extended_copy.parse_status_lid1,
        extended_copy.parse_status_lid4,
        rod_token.parse_answer,
    ):
        with suppress(MalformedAnswer):
            parse(data)
    with suppress(MalformedAnswer):
        assert extended_copy.parse_operating_parameters(data).segment_blocks(512) >= 1
