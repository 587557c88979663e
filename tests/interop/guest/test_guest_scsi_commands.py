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
    listed = guest.succeed(f"sg_vpd -q -H -p sv {disk}")
    pages = [int(byte, 16) for byte in re.findall(r"\b[0-9a-f]{2}\b", listed)][4:]
    assert {0x00, 0x80, 0x83, 0xB0, 0xB1, 0xB2} <= set(pages), listed

    for page in pages:
        decoded = guest.succeed(f"sg_vpd -p {page:#x} {disk}")
        assert "hex" not in decoded.lower(), decoded
        assert "?" not in decoded, decoded
        guest.succeed(f"sg_inq -p {page:#x} {disk}")


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


def test_write_same_and_unmap_and_what_is_said_of_the_blocks(guest: Guest, disk: str) -> None:
    def provisioning(lba: int) -> str:
        return guest.succeed(f"sg_get_lba_status --lba={lba} --brief {disk}").split("\n")[0]

    guest.succeed(
        f"""
        dd if=/dev/urandom of=/tmp/block bs=512 count=1
        sg_write_same --16 --in=/tmp/block --lba=0 --num=4096 {disk}
        for n in $(seq 4096); do cat /tmp/block; done >/tmp/blocks
        dd if={disk} bs=1M count=2 iflag=direct | cmp - /tmp/blocks
        """
    )
    assert provisioning(0).split()[:2] == ["0x0", "0"] or "mapped" in provisioning(0)

    guest.succeed(
        f"""
        sg_unmap --force --lba=0 --num=2048 {disk}
        sg_write_same --16 --unmap --in=/dev/zero --xferlen=512 --lba=2048 --num=2048 {disk}
        cmp -n 2097152 {disk} /dev/zero
        """
    )
