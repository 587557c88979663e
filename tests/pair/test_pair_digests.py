"""Digests between our initiator and our target: what is damaged on the way is never taken for good."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from csvd.iscsi.connection import gather
from csvd.iscsi.keys import OFFER
from initiator.engine.requests import ConnectionFailed
from initiator.errors import CommandRejected, DamagedPdu
from tests.pair.joined import Pair
from tests.pair.test_engines import logged_in

DIGESTED = replace(OFFER, header_digest="CRC32C", data_digest="CRC32C")


def pair_with_digests() -> Pair:
    pair = logged_in(Pair(initiator_offer=DIGESTED))
    assert pair.initiator.session.parameters.header_digest == "CRC32C"
    return pair


@given(st.integers(0, 2**20), st.integers(0, 7))
@settings(deadline=None)
def test_data_that_is_damaged_on_its_way_to_the_initiator_is_never_good(place: int, bit: int) -> None:
    pair = pair_with_digests()
    command, _ = pair.read(0, 40)
    pair.initiator.send(command)
    pair._feed_target(gather(pair._all_to_send()))
    answer = bytearray(gather(pair.engine.output))
    pair.engine.output.clear()
    place %= len(answer)
    answer[place] ^= 1 << bit
    events = pair.initiator.feed(answer)
    assert command not in events
    # Where the damage makes a header longer, more of it is waited for.
    for event in events:
        assert isinstance(event, ConnectionFailed)
        assert isinstance(event.error, DamagedPdu)
    if place >= 8:
        assert events


def test_a_write_whose_data_out_is_damaged_fails_with_a_crc_error_and_the_next_one_succeeds() -> None:
    pair = pair_with_digests()
    command = pair.write(0, b"x" * (1 << 19))
    pair.initiator.send(command)
    whole = bytearray(gather(pair._all_to_send()))
    pair._feed_target(bytes(whole))
    to_initiator = gather(pair.engine.output)
    pair.engine.output.clear()
    pair._feed_initiator(to_initiator)
    data_out = bytearray(gather(pair._all_to_send()))
    data_out[60] ^= 1
    pair._feed_target(bytes(data_out))
    pair.run()
    assert isinstance(command.error, CommandRejected) or (command.sense[12], command.sense[13]) == (0x47, 0x05)
    read, buffer = pair.read(0, 1 << 10)
    assert pair.ask(read) == [read]
    assert not any(buffer)
    again = pair.write(0, b"y" * 4096)
    assert pair.ask(again) == [again]
    assert again.status == 0
