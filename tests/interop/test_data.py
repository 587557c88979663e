"""Data written by QEMU and read back, through the target and from the file behind it."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from initiator.url import parse_url
from tests.interop.conftest import Serve
from tests.interop.libiscsi import capacity_bytes
from tests.interop.programs import refuse, succeed
from tests.interop.qemu import check_output, qemu_io

pytestmark = pytest.mark.interop

SECTOR = 512
KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30


def write_image(file: Path, size_bytes: int, seed: int) -> None:
    """An image with holes, runs of zeros that are written, and random data, that begin and end at any sector."""
    chance = random.Random(seed)
    with file.open("wb") as image:
        image.truncate(size_bytes)
        for _ in range(96):
            length = chance.randrange(1, 4 * MIB // SECTOR) * SECTOR
            image.seek(chance.randrange((size_bytes - length) // SECTOR) * SECTOR)
            image.write(bytes(length) if chance.random() < 0.2 else chance.randbytes(length))


def fill(file: Path, size_bytes: int, byte: int) -> None:
    with file.open("wb") as disk:
        for _ in range(size_bytes // MIB):
            disk.write(bytes([byte]) * MIB)


def same(one: Path, other: Path) -> bool:
    with one.open("rb") as left, other.open("rb") as right:
        while True:
            block = left.read(MIB)
            if block != right.read(MIB):
                return False
            if not block:
                return True


def test_an_image_of_one_gibibyte_is_converted_onto_the_disk_and_compares_equal(serve: Serve, scratch: Path) -> None:
    image, disk = scratch / "image.raw", scratch / "disk.img"
    write_image(image, GIB, seed=2)
    # What was there before must not shine through where the image is zero.
    fill(disk, GIB, 0xA5)
    target = serve(disk.name)

    succeed("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", str(image), target.url, timeout_s=200)
    same_through_target = succeed(
        "qemu-img", "compare", "-f", "raw", "-F", "raw", str(image), target.url, timeout_s=200
    )
    target.stop()

    assert "Images are identical." in same_through_target
    assert same(image, disk)


def test_holes_stay_holes_and_the_map_says_so(serve: Serve, scratch: Path) -> None:
    image, disk = scratch / "image.raw", scratch / "disk.img"
    with image.open("wb") as file:
        file.truncate(64 * MIB)
        for begin in (0, 24 * MIB, 63 * MIB):
            file.seek(begin)
            file.write(random.Random(begin).randbytes(MIB))
    fill(disk, 64 * MIB, 0xA5)
    target = serve(disk.name)

    succeed("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", str(image), target.url)
    qemu_io(target.url, f"discard {24 * MIB} {64 * KIB}", f"write -z {40 * MIB} {64 * KIB}")
    printed = succeed("qemu-img", "map", "-f", "raw", "--output=json", target.url)
    target.stop()

    runs = [(run["start"], run["length"], run["data"]) for run in json.loads(printed)]
    end_of_second, zeros = 25 * MIB, 40 * MIB + 64 * KIB
    assert runs == [
        (0, MIB, True),
        (MIB, 23 * MIB + 64 * KIB, False),
        (24 * MIB + 64 * KIB, MIB - 64 * KIB, True),
        (end_of_second, 40 * MIB - end_of_second, False),
        # Zeros that are written, not discarded, have their place.
        (40 * MIB, 64 * KIB, True),
        (zeros, 63 * MIB - zeros, False),
        (63 * MIB, MIB, True),
    ]
    assert disk.stat().st_blocks * SECTOR <= 4 * MIB


def test_compare_finds_one_changed_sector(serve: Serve, scratch: Path) -> None:
    image = scratch / "image.raw"
    write_image(image, 64 * MIB, seed=3)
    target = serve("disk.img", create="64M")
    succeed("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", str(image), target.url)

    changed = 33 * MIB + 7 * SECTOR
    qemu_io(target.url, f"write -P 0x77 {changed} {SECTOR}")

    printed = refuse("qemu-img", "compare", "-f", "raw", "-F", "raw", str(image), target.url)
    assert f"Content mismatch at offset {changed}!" in printed


@pytest.mark.parametrize("size", [512, 4 * KIB, 8 * KIB + 512, 64 * KIB, 256 * KIB, MIB, 4 * MIB])
@pytest.mark.parametrize("offset", [0, 512, 3 * MIB + 512])
def test_a_pattern_is_read_back_and_its_neighbours_are_untouched(serve: Serve, size: int, offset: int) -> None:
    url = serve("a.img", create="16M").url
    before, after = f"0 {offset}", f"{offset + size} {8 * MIB}"

    commands = ["write -P 0x55 0 16M", f"write -P 0xc3 {offset} {size}", "flush", f"read -P 0xc3 {offset} {size}"]
    commands.append(f"read -P 0x55 {after}")
    if offset:
        commands.append(f"read -P 0x55 {before}")

    qemu_io(url, *commands)


def test_blocks_of_4096_bytes_carry_data_as_well(serve: Serve) -> None:
    url = serve("a.img", create="64M", block_bytes=4096).url

    assert "LOGICAL BLOCK LENGTH IN BYTES:4096\n" in succeed("iscsi-readcapacity16", url)
    assert capacity_bytes(url) == 64 * MIB
    # QEMU turns what is shorter than a block into a read, a change and a write.
    qemu_io(url, "write -P 0x55 0 1M", "write -P 0xc3 512 512", "write -P 0xc4 8k 4M", "flush")
    qemu_io(url, "read -P 0x55 0 512", "read -P 0xc3 512 512", "read -P 0x55 1k 7k", "read -P 0xc4 8k 4M")


@pytest.mark.parametrize("header_digest", ["crc32c", "crc32c-none"])
def test_a_pattern_is_read_back_with_a_digest_behind_every_header(serve: Serve, header_digest: str) -> None:
    target = serve("disk.img", create="64M", options=("--log-level", "info"))
    place = parse_url(target.url)
    image = (
        f"driver=iscsi,transport=tcp,portal={place.portal},target={place.target_name},lun={place.lun},"
        f"header-digest={header_digest}"
    )
    commands = ("write -P 0x31 0 4k", "write -P 0x32 1M 8M", "flush", "read -P 0x31 0 4k", "read -P 0x32 1M 8M")
    arguments = [word for command in commands for word in ("-c", command)]
    printed = succeed("qemu-io", "--image-opts", *arguments, image)
    check_output(printed, commands)
    assert "header digest CRC32C" in target.log()


@pytest.mark.parametrize("size", [512, 4 * KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB])
def test_many_requests_in_flight_each_carry_their_own_data(serve: Serve, size: int) -> None:
    url = serve("a.img", create="160M").url
    parts = [(number * size, number % 255 + 1) for number in range(32)]

    qemu_io(
        url,
        *(f"aio_write -P {pattern} {offset} {size}" for offset, pattern in parts),
        "aio_flush",
        "flush",
        *(f"aio_read -P {pattern} {offset} {size}" for offset, pattern in reversed(parts)),
        "aio_flush",
    )


def test_data_is_in_the_file_where_it_was_written(serve: Serve, scratch: Path) -> None:
    target = serve("a.img", create="8M")

    qemu_io(target.url, "write -P 0x41 0 512", "write -P 0x42 1M 4k", "write -P 0x43 8388096 512", "flush")
    data = (scratch / "a.img").read_bytes()

    assert data[:513] == b"\x41" * 512 + b"\0"
    assert data[MIB - 1 : MIB + 4097] == b"\0" + b"\x42" * 4096 + b"\0"
    assert data[-513:] == b"\0" + b"\x43" * 512


def test_writes_that_ask_for_stable_storage_are_read_back(serve: Serve) -> None:
    url = serve("a.img", create="64M").url

    qemu_io(url, "write -f -P 0x61 0 4k", "write -f -P 0x62 1M 1M", "read -P 0x61 0 4k", "read -P 0x62 1M 1M")


def test_zeros_replace_what_was_there(serve: Serve) -> None:
    url = serve("a.img", create="64M").url

    qemu_io(
        url,
        "write -P 0xee 0 8M",
        "write -z 1M 2M",
        "flush",
        "read -P 0xee 0 1M",
        "read -P 0 1M 2M",
        "read -P 0xee 3M 5M",
    )


def test_a_read_past_the_end_is_refused_and_the_session_goes_on(serve: Serve) -> None:
    url = serve("a.img", create="8M").url

    printed = refuse("qemu-io", "-f", "raw", "-c", "read 8M 512", "-c", "read -P 0 0 512", url)

    assert "read failed: Input/output error" in printed
    assert "read 512/512 bytes at offset 0" in printed
