"""MODE SELECT under any parameter list: it changes what may be changed, or nothing; and what is kept brings it back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from csvd.scsi.mode_parameters import ModeParameters
from csvd.scsi.outcome import Status
from csvd.scsi.target_device import TargetDevice
from tests.unit.scsi.application_client import ApplicationClient, a_unit

DESCRIPTOR = bytes.fromhex("00032000 00 000200")


def pages_of_a_unit() -> list[tuple[bytes, bytes]]:
    """Each page with its default values, and the mask of what can be changed, as long."""
    mode = ModeParameters(a_unit(thin=True, keeps=True))
    return [
        (page.encode(mode.default(page), saveable=False), bytes(page.header_bytes) + mode.changeable(page))
        for page in mode.pages
    ]


PAGES = pages_of_a_unit()


@st.composite
def parameter_lists(draw: st.DrawFn) -> bytes:
    """Pages with other values, at times with a bit turned that must not be, at times cut, behind a header that is right
    or not."""
    has_descriptor = draw(st.booleans())
    length = draw(st.sampled_from([8 if has_descriptor else 0] * 6 + [1, 8, 16, 255]))
    data = bytearray(bytes((0, draw(st.sampled_from([0] * 6 + [1])), draw(st.integers(0, 255)), length)))
    data += DESCRIPTOR if has_descriptor else b""
    for page, mask in draw(st.lists(st.sampled_from(PAGES), max_size=4)):
        turned = draw(st.binary(min_size=len(page), max_size=len(page)))
        changed = bytearray(old ^ bits & new for old, bits, new in zip(page, mask, turned, strict=True))
        for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
            index = draw(st.integers(0, len(page) - 1))
            changed[index] ^= 1 << draw(st.integers(0, 7))
        data += changed
    return bytes(data[: draw(st.sampled_from([len(data)] * 4 + [draw(st.integers(0, len(data)))]))])


@given(st.lists(st.tuples(parameter_lists(), st.booleans(), st.sampled_from([0x10, 0x11, 0x12, 0x13])), max_size=4))
def test_a_parameter_list_changes_what_may_be_changed_or_nothing(lists: list[tuple[bytes, bool, int]]) -> None:
    unit = a_unit(thin=True, keeps=True)
    client = ApplicationClient(TargetDevice({0: unit})).ready()
    mode = client.target.servers[0].mode
    for data, in_ten_bytes, flags in lists:
        before = {page: (mode.current(page), mode.saved(page)) for page in mode.pages}
        if in_ten_bytes:
            data_out = bytes(2) + data[1:3] + bytes(3) + data[3:4] + data[4:]
            cdb = bytes((0x55, flags, 0, 0, 0, 0, 0)) + len(data_out).to_bytes(2) + b"\0"
        else:
            data_out = data[:255]
            cdb = bytes((0x15, flags, 0, 0, len(data_out), 0))
        reply = client.run(cdb, data_out=data_out)
        for page, (current, saved) in before.items():
            fixed = [~bits & 0xFF for bits in mode.changeable(page)]
            pairs = zip(mode.current(page), mode.default(page), fixed, strict=True)
            assert all(new & bits == old & bits for new, old, bits in pairs)
            if reply.status != Status.GOOD:
                assert (mode.current(page), mode.saved(page)) == (current, saved)
            elif flags & 0x01:
                assert mode.saved(page) == mode.current(page)
            else:
                assert mode.saved(page) == saved
    again = ModeParameters(a_unit(thin=True, keeps=True, kept=dict(unit.kept)))
    for page in again.pages:
        assert again.current(page) == mode.saved(page)
