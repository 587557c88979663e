"""sg3-utils in the guest: each command of the standards that a person would try, through the kernel's initiator."""

from __future__ import annotations

import re

import pytest

from tests.bench.targets import IQN
from tests.interop.conftest import Serve
from tests.interop.guest.machine import Guest
from tests.interop.guest.open_iscsi import Node, OpenIscsi

pytestmark = pytest.mark.interop

# sg3_utils(8), "EXIT STATUS".
MISCOMPARE = 14


@pytest.fixture
def node(serve: Serve) -> Node:
    return Node(IQN, serve("a.img", "b.img", create="64M").portal)


@pytest.fixture
def disk(initiator: OpenIscsi, node: Node) -> str:
    """LUN 0 of two."""
    return initiator.login(node, luns=(0, 1))


def test_what_a_disk_says_of_itself_decodes(guest: Guest, disk: str) -> None:
    assert "PDT=0" in guest.succeed(f"sg_inq {disk}")
    assert "Logical block length=512 bytes" in guest.succeed(f"sg_readcap -l {disk}")
    assert "Lun list length = 16" in guest.succeed(f"sg_luns {disk}")
    guest.succeed(f"sg_turs {disk}; sg_requests {disk}; sg_sync {disk}")
    modes = guest.succeed(f"sg_modes -a {disk}")
    assert "Caching" in modes
    assert "Control" in modes


def test_every_vital_product_data_page_decodes(guest: Guest, disk: str) -> None:
    # A header of four bytes, then a byte for each page.
    pages = bytes.fromhex(guest.succeed(f"sg_vpd --raw -p sv {disk} | xxd -p"))[4:]
    assert {0x00, 0x80, 0x83, 0xB0, 0xB1, 0xB2} <= set(pages)

    for page in pages:
        decoded = guest.succeed(f"sg_vpd -p {page:#x} {disk}")
        assert "Only hex output supported" not in decoded, decoded
        assert "VPD page" in decoded, decoded


def test_supported_commands_and_task_management_decode(guest: Guest, disk: str) -> None:
    commands = guest.succeed(f"sg_opcodes --rctd {disk}")

    for name in ("Compare and write", "Unmap", "Write same(16)", "Read(16)", "Get LBA status"):
        assert name in commands, commands
    assert not re.search(r"Opcode=0x|\bvendor specific\b", commands), commands
    functions = guest.succeed(f"sg_opcodes --tmf {disk}")
    assert "Abort task" in functions
    assert "Logical unit reset" in functions


def test_compare_and_write_writes_when_it_compares(guest: Guest, disk: str) -> None:
    swap = f"sg_compare_and_write --lba=8 --num=2 --xferlen=2048 --quiet {disk}"
    guest.succeed(
        """
        dd if=/dev/zero of=/tmp/zeros bs=1024 count=1
        dd if=/dev/urandom of=/tmp/new bs=1024 count=1
        cat /tmp/zeros /tmp/new >/tmp/swap
        """
    )

    guest.succeed(f"{swap} --in=/tmp/swap")
    assert guest.run(f"{swap} --in=/tmp/swap").status == MISCOMPARE

    guest.succeed(f"dd if={disk} bs=512 skip=8 count=2 iflag=direct | cmp - /tmp/new")


def test_verify_tells_whether_the_disk_has_the_data(guest: Guest, disk: str) -> None:
    guest.succeed(
        f"""
        dd if=/dev/urandom of=/tmp/new bs=4096 count=1
        dd if=/tmp/new of={disk} bs=4096 count=1 oflag=direct
        sg_verify --lba=0 --count=8 {disk}
        sg_verify --lba=0 --count=8 --ndo=4096 --in=/tmp/new {disk}
        sg_verify --16 --lba=0 --count=8 --ndo=4096 --in=/tmp/new {disk}
        """
    )
    different = f"sg_verify --lba=1 --count=8 --ndo=4096 --in=/tmp/new {disk}"
    assert guest.run(different).status == MISCOMPARE


def test_unmapped_blocks_are_zeros_and_said_to_be_deallocated(guest: Guest, disk: str) -> None:
    def provisioning(lba: int) -> tuple[int, str]:
        printed = guest.succeed(f"sg_get_lba_status --lba={lba} {disk}")
        first = re.search(r"^\[1\] .*blocks: +(\d+) +(\w+)", printed, re.MULTILINE)
        assert first is not None, printed
        return int(first[1]), first[2]

    assert provisioning(0) == (131072, "deallocated")

    guest.succeed(
        f"""
        dd if=/dev/urandom of=/tmp/block bs=512 count=1
        sg_write_same --16 --in=/tmp/block --lba=0 --num=4096 {disk}
        cp /tmp/block /tmp/blocks
        for doubled in 1 2 3 4 5 6; do cat /tmp/blocks /tmp/blocks >/tmp/more; mv /tmp/more /tmp/blocks; done
        dd if={disk} bs=32k skip=63 count=1 iflag=direct | cmp - /tmp/blocks
        """
    )
    assert provisioning(0) == (4096, "mapped")
    assert provisioning(4096) == (126976, "deallocated")

    guest.succeed(f"sg_unmap --force --lba=0 --num=2048 {disk}")
    assert provisioning(0) == (2048, "deallocated")
    guest.succeed(f"dd if={disk} bs=1M skip=1 count=1 iflag=direct | dd bs=32k count=1 | cmp - /tmp/blocks")
    guest.succeed(f"sg_write_same --16 --unmap --in=/dev/zero --xferlen=512 --lba=2048 --num=2048 {disk}")
    assert provisioning(0) == (131072, "deallocated")
    guest.succeed(f"dd if={disk} bs=1M count=2 iflag=direct | cmp -n 2097152 - /dev/zero")


def test_the_state_of_the_target_port_group_is_told_and_set(guest: Guest, disk: str) -> None:
    assert "active/optimized" in guest.succeed(f"sg_rtpg -d {disk}")

    guest.succeed(f"sg_stpg --active {disk}")
    assert "active/non optimized" in guest.succeed(f"sg_rtpg -d {disk}")
    guest.succeed(f"sg_stpg --optimized {disk}")
    assert "active/optimized" in guest.succeed(f"sg_rtpg -d {disk}")
