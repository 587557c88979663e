"""What a fence by persistent reservations is made of: the keys of the nodes, and what the target can do."""

from __future__ import annotations

import pytest

from csvd.storage.iscsi.description import FENCE, FENCE_UNTIL_POWER_LOSS, fence_by
from csvd.storage.iscsi.fence import key_of
from initiator.scsi.reservations import parse_capabilities


@pytest.mark.parametrize(
    ("data", "fence"),
    [
        ("0008 01 80 2000 0000", FENCE),
        ("0008 00 80 EA01 0000", FENCE_UNTIL_POWER_LOSS),
        ("0008 01 80 DF01 0000", "none"),
        ("0008 00 00 0000 0000", FENCE_UNTIL_POWER_LOSS),
    ],
)
def test_a_target_is_a_fence_unless_it_says_that_it_lacks_the_type(data: str, fence: str) -> None:
    assert fence_by(parse_capabilities(bytes.fromhex(data))) == fence


def test_every_node_has_a_key_of_its_own_on_every_disk() -> None:
    keys = {key_of(disk, node) for disk in ("naa.1", "naa.2") for node in ("a", "b", "ab", "")}
    assert len(keys) == 8
    assert all(0 < key < 1 << 64 for key in keys)
    assert key_of("naa.1", "a") == key_of("naa.1", "a")
