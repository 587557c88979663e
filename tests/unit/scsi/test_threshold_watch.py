from __future__ import annotations

import errno
from typing import Any

import pytest

from csvd.errors import ConfigError
from csvd.scsi.outcome import GOOD, WRITE, Transfer
from csvd.scsi.procedure import Usage
from csvd.scsi.provisioning import ResourceCounts, resource_counts, threshold_exponent
from csvd.scsi.target_device import TargetDevice
from csvd.scsi.threshold_watch import LOOK_EVERY_BYTES
from tests.unit.scsi.application_client import ApplicationClient, a_unit, code, fixed_sense
from tests.unit.scsi.block_cdbs import cdb_16
from tests.unit.scsi.store import Store

SOFT_THRESHOLD_REACHED = (0x6, 0x38, 0x07)
MIB = 1 << 20


def clients(**overrides: Any) -> tuple[ApplicationClient, ApplicationClient, Store]:
    """Two hosts of one thin unit of 100 MiB with a threshold of 80 %."""
    unit = a_unit(**{"thin": True, "soft_threshold_percent": 80, **overrides})
    target = TargetDevice({0: unit})
    one, other = ApplicationClient(target, "host a").ready(), ApplicationClient(target, "host b").ready()
    return one, other, Store()


def write(client: ApplicationClient, store: Store, length_bytes: int = LOOK_EVERY_BYTES) -> None:
    """What the glue does after a WRITE."""
    unit = client.target.servers[0].unit
    look = client.target.written(Transfer(WRITE, unit, 0, length_bytes, False), client.nexus)
    if look is not None:
        assert store.run_steps(look.steps) is GOOD


def attention(client: ApplicationClient) -> tuple[int, int, int] | None:
    reply = client.run("00 00 00 00 00 00")
    return code(fixed_sense(reply.sense)) if reply.sense else None


def test_every_nexus_is_told_once_when_usage_grows_over_the_threshold() -> None:
    one, other, store = clients()
    store.used_bytes = 79 * MIB
    write(one, store)
    assert (attention(one), attention(other)) == (None, None)
    store.used_bytes = 79 * MIB + 1
    write(one, store)
    assert (attention(one), attention(other)) == (SOFT_THRESHOLD_REACHED, SOFT_THRESHOLD_REACHED)
    write(one, store)
    assert (attention(one), attention(other)) == (None, None)


def test_it_is_told_again_after_usage_was_below() -> None:
    one, _, store = clients()
    for used, told in ((90, SOFT_THRESHOLD_REACHED), (95, None), (10, None), (80, SOFT_THRESHOLD_REACHED)):
        store.used_bytes = used * MIB
        write(one, store)
        assert attention(one) == told


def test_usage_is_looked_at_after_the_first_write_and_then_every_few_mebibytes() -> None:
    one, _, store = clients()
    write(one, store, 512)
    assert len(store.requests) == 1
    for _ in range(15):
        write(one, store, LOOK_EVERY_BYTES // 16)
    assert len(store.requests) == 1
    write(one, store, LOOK_EVERY_BYTES // 16)
    assert [type(request) for request in store.requests] == [Usage, Usage]


def test_what_a_command_of_several_steps_changes_counts_too() -> None:
    one, other, store = clients()
    store.used_bytes = 90 * MIB
    reply = one.run(cdb_16(0x93, 0, 8), data_out=b"x" * 512, store=store)
    assert reply is GOOD
    assert attention(other) == SOFT_THRESHOLD_REACHED


def test_a_disk_that_does_not_tell_reaches_nothing() -> None:
    one, _, store = clients()
    write(one, store)
    store.fault = lambda request: errno.EIO
    write(one, store)
    assert attention(one) is None
    store.fault, store.used_bytes = lambda request: None, 90 * MIB
    write(one, store)
    assert attention(one) == SOFT_THRESHOLD_REACHED


@pytest.mark.parametrize("overrides", [{"soft_threshold_percent": 0}, {"thin": False}])
def test_without_a_threshold_nobody_looks(overrides: dict[str, object]) -> None:
    one, _, store = clients(**overrides)
    store.used_bytes = 100 * MIB
    write(one, store)
    write(one, store)
    assert not store.requests
    assert attention(one) is None


def select_threshold(client: ApplicationClient, count: int, *, single: bool) -> None:
    """Set the threshold of the mode page, with LBPERE set already by the default of the unit."""
    page = bytes((0x5C, 0x02, 0x00, 0x14, single, *bytes(11), 0x81, 0x02, 0, 0)) + count.to_bytes(4)
    reply = client.run(bytes((0x15, 0x10, 0, 0, 4 + len(page), 0)), data_out=bytes(4) + page)
    assert reply is GOOD


def test_mode_select_moves_the_threshold_and_tells_one_nexus_alone() -> None:
    one, other, store = clients()
    select_threshold(one, 50, single=True)
    assert attention(other) == (0x6, 0x2A, 0x01), "mode parameters changed"
    store.used_bytes = 50 * MIB
    write(one, store)
    assert (attention(one), attention(other)) == (SOFT_THRESHOLD_REACHED, None)


def test_the_default_of_the_mode_page_is_the_percentage_in_threshold_sets() -> None:
    one, _, _ = clients()
    page = one.data("5A 08 1C 02 00 00 00 00FF 00")[8:]
    assert page[16] & 0x80, "enabled"
    assert int.from_bytes(page[20:24]) == 80


def test_resources_are_counted_in_sets_of_a_mebibyte() -> None:
    unit = a_unit(thin=True)
    assert unit.block_bytes << threshold_exponent(unit) == MIB
    assert resource_counts(unit, 0) == ResourceCounts(100, 0)
    assert resource_counts(unit, 1) == ResourceCounts(99, 1)
    assert resource_counts(unit, 200 * MIB) == ResourceCounts(0, 100)


def test_sets_of_a_huge_disk_are_counted_by_32_bits() -> None:
    unit = a_unit(thin=True, block_count=1 << 53)
    counts = resource_counts(unit, 0)
    assert counts.available <= 0xFFFF_FFFF
    assert counts.available * (unit.block_bytes << threshold_exponent(unit)) >= unit.block_count * unit.block_bytes


@pytest.mark.parametrize("block_bytes", [512, 4096, 1 << 20, 4 << 20])
def test_a_threshold_exponent_is_never_zero(block_bytes: int) -> None:
    assert threshold_exponent(a_unit(block_bytes=block_bytes, maximum_transfer_bytes=8 << 20)) >= 1


@pytest.mark.parametrize("percent", [-1, 101])
def test_a_threshold_beyond_all_is_one_clear_error(percent: int) -> None:
    with pytest.raises(ConfigError, match="is not 0 to 100"):
        a_unit(soft_threshold_percent=percent)
