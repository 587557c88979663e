"""The name of a target that nobody has named."""

from __future__ import annotations

import pytest

from csvd.cli.serve import default_iqn
from csvd.iscsi.names import check_iscsi_name


@pytest.mark.parametrize(
    ("disk", "word"),
    [
        ("/srv/My Disk.img", "my-disk"),
        ("disk.img", "disk"),
        ("null:10G", "null-10g"),
        ("iscsi://joe@host:3260/iqn.2026-11.org.example:disks/0", "iqn.2026-11.org.example-disks-0"),
        ("file:///srv/a.img", "srv-a.img"),
        ("///", "disk"),
    ],
)
def test_a_target_is_named_after_its_disk(disk: str, word: str) -> None:
    assert default_iqn(disk) == f"iqn.2026-11.org.csvd:{word}"


def test_a_long_name_of_a_disk_makes_no_name_that_is_too_long() -> None:
    name = default_iqn(f"iscsi://host/iqn.2026-11.org.example:{'x' * 180}/0")
    assert check_iscsi_name(name) == name
    assert name.endswith("x-0")
