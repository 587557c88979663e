"""What an initiator finds out: discovery, INQUIRY with its pages, capacity."""

from __future__ import annotations

import pytest

from tests.bench.targets import IQN
from tests.interop import libiscsi
from tests.interop.conftest import Serve
from tests.interop.libiscsi import capacity_bytes, iscsi_inq, iscsi_ls, vpd_pages
from tests.interop.programs import refuse, succeed
from tests.interop.qemu import qemu_io

pytestmark = pytest.mark.interop

MIB = 1 << 20
TIB = 1 << 40


def test_discovery_names_the_target_its_portal_and_its_disks(serve: Serve) -> None:
    target = serve("a.img", "b.img", create="64M")

    found = iscsi_ls(target.portal)

    assert found.name == IQN
    assert found.portals == (f"{target.portal},1",)
    assert [str(lun) for lun in found.disks] == [url.rpartition("/")[2] for url in target.urls]


def test_inquiry_shows_a_disk_that_queues_commands(serve: Serve) -> None:
    fields = iscsi_inq(serve("a.img", create="64M").url)

    assert fields["Peripheral Qualifier"] == ["CONNECTED"]
    assert fields["Peripheral Device Type"] == ["DIRECT_ACCESS"]
    assert fields["Removable"] == ["0"]
    assert fields["CmdQue"] == ["1"]
    assert all(fields[name][0].strip() for name in ("Vendor", "Product", "Revision"))


def test_every_page_that_libiscsi_knows_can_be_read(serve: Serve) -> None:
    url = serve("a.img", create="64M").url

    pages = vpd_pages(url)

    assert pages == sorted(pages)
    # libiscsi can read no others; sg3_utils reads them all (test_sg3_pages.py, and in the guest).
    known = {
        libiscsi.SUPPORTED_VPD_PAGES,
        libiscsi.UNIT_SERIAL_NUMBER,
        libiscsi.DEVICE_IDENTIFICATION,
        libiscsi.BLOCK_LIMITS,
        libiscsi.BLOCK_DEVICE_CHARACTERISTICS,
        libiscsi.LOGICAL_BLOCK_PROVISIONING,
    }
    assert known <= set(pages)
    for page in known:
        assert iscsi_inq(url, page), f"page {page:02X}h is empty"


def test_a_page_that_is_not_listed_is_refused(serve: Serve) -> None:
    url = serve("a.img", create="64M").url
    assert 0x99 not in vpd_pages(url)

    assert "INVALID_FIELD_IN_CDB" in refuse("iscsi-inq", "-e", "1", "-c", str(0x99), url)


def test_disks_differ_in_serial_number_and_designators(serve: Serve) -> None:
    first, second = serve("a.img", "b.img", create="64M").urls

    for page, field in (
        (libiscsi.UNIT_SERIAL_NUMBER, "Unit Serial Number"),
        (libiscsi.DEVICE_IDENTIFICATION, "Designator"),
    ):
        assert iscsi_inq(first, page)[field] != iscsi_inq(second, page)[field]


def test_a_disk_has_a_naa_designator_of_its_own(serve: Serve) -> None:
    fields = iscsi_inq(serve("a.img", create="64M").url, libiscsi.DEVICE_IDENTIFICATION)

    kinds = list(zip(fields["Association"], fields["Designator Type"], strict=True))
    assert ("(0) LOGICAL_UNIT", "(3) NAA") in kinds


def test_identity_is_the_same_after_a_restart(serve: Serve) -> None:
    def identity(url: str) -> list[dict[str, list[str]]]:
        return [iscsi_inq(url, page) for page in (libiscsi.UNIT_SERIAL_NUMBER, libiscsi.DEVICE_IDENTIFICATION)]

    target = serve("a.img", create="64M")
    before = identity(target.url)
    target.stop()

    assert identity(serve("a.img").url) == before


@pytest.mark.parametrize("mebibytes", [1, 64, 1025])
def test_capacity_is_that_of_the_file(serve: Serve, mebibytes: int) -> None:
    url = serve("a.img", create=f"{mebibytes}M").url

    assert capacity_bytes(url) == mebibytes * MIB
    printed = succeed("iscsi-readcapacity16", url)
    assert f"RETURNED LOGICAL BLOCK ADDRESS:{mebibytes * MIB // 512 - 1}\n" in printed
    assert "LOGICAL BLOCK LENGTH IN BYTES:512\n" in printed


def test_a_disk_of_more_than_two_tebibytes_is_used_to_its_last_block(serve: Serve) -> None:
    url = serve("large.img", create="3T").url

    assert capacity_bytes(url) == 3 * TIB
    last = 3 * TIB - 512
    beyond_32_bits = 2 * TIB
    qemu_io(
        url,
        f"write -P 0x31 {last} 512",
        f"write -P 0x32 {beyond_32_bits} 1M",
        "flush",
        f"read -P 0x31 {last} 512",
        f"read -P 0x32 {beyond_32_bits} 1M",
        "read -P 0 0 1M",
    )
