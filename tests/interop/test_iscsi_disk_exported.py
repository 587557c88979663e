"""A LUN of another target, exported by `csvd serve` and used by QEMU: what it verifies is on the disk behind it all."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench.targets import TARGETS, Chap, Export, Target, start_csvd
from tests.interop.libiscsi import capacity_bytes
from tests.interop.programs import refuse, succeed
from tests.interop.qemu import qemu_io

pytestmark = pytest.mark.interop

KIB, MIB = 1 << 10, 1 << 20
SIZE = 64 * MIB


class Chain:
    """A target with a file, and a csvd that serves its LUN."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.disk = folder / "disk.img"
        self._kind = kind
        self._folder = folder
        self._targets: list[Target] = []
        for name in ("backing", "export"):
            (folder / name).mkdir()

    def start(self, *options: str, chap: Chap | None = None, read_only: bool = False, block_bytes: int = 512) -> str:
        """Start both; give the URL at which the export is reached."""
        how = Export((self.disk,), create=str(SIZE), chap=chap, block_bytes=block_bytes)
        self.backing = self._added(TARGETS[self._kind](how, self._folder / "backing"))
        url = self.backing.url
        if chap is not None:
            secret = self._folder / "secret"
            secret.touch(mode=0o600)
            secret.write_text(chap.secret)
            url = url.replace("iscsi://", f"iscsi://{chap.user}@")
            options = (*options, "--disk-secret-file", str(secret))
        self.export = self._added(
            start_csvd(
                Export((), urls=(url,), read_only=read_only, block_bytes=block_bytes, options=options),
                self._folder / "export",
            )
        )
        return self.export.url

    def _added(self, target: Target) -> Target:
        self._targets.append(target)
        return target

    def end(self) -> None:
        """The export ends first: it flushes, and both end well."""
        try:
            for target in reversed(self._targets):
                assert target.ended_by_us or target.stop() == 0, target.log()
                assert "Traceback" not in target.log(), target.log()
        finally:
            for target in self._targets:
                if target.running:
                    target.kill()


@pytest.fixture(params=["csvd", "tgtd"])
def chain(request: pytest.FixtureRequest, scratch: Path) -> Iterator[Chain]:
    chain = Chain(request.param, scratch)
    yield chain
    chain.end()


@pytest.mark.parametrize("size", [512, 8 * KIB + 512, 4 * MIB])
@pytest.mark.parametrize("offset", [0, 3 * MIB + 512])
def test_a_pattern_is_read_back_and_its_neighbours_are_untouched(chain: Chain, size: int, offset: int) -> None:
    url = chain.start()
    assert capacity_bytes(url) == SIZE
    commands = ["write -P 0x55 0 16M", f"write -P 0xc3 {offset} {size}", "flush", f"read -P 0xc3 {offset} {size}"]
    commands.append(f"read -P 0x55 {offset + size} {8 * MIB}")
    if offset:
        commands.append(f"read -P 0x55 0 {offset}")
    qemu_io(url, *commands)
    whole = chain.disk.read_bytes()
    assert whole[offset : offset + size] == b"\xc3" * size
    assert whole.count(0x55) == 16 * MIB - size


def test_zeros_discards_and_stable_writes_come_through(chain: Chain) -> None:
    url = chain.start()
    qemu_io(url, "write -P 0x11 0 8M", "write -z 1M 1M", "discard 3M 1M", "write -f -P 0x22 5M 4k", "flush")
    qemu_io(
        url,
        "read -P 0x11 0 1M",
        "read -P 0 1M 1M",
        "read -P 0x11 2M 1M",
        "read -P 0x11 4M 1M",
        "read -P 0x22 5M 4k",
        "read -P 0x11 6M 2M",
    )
    whole = chain.disk.read_bytes()
    assert whole[MIB : 2 * MIB] == bytes(MIB)
    assert whole[5 * MIB : 5 * MIB + 4096] == b"\x22" * 4096


@pytest.mark.parametrize("size", [4 * KIB, 64 * KIB, MIB])
def test_many_requests_in_flight_each_carry_their_own_data(chain: Chain, size: int) -> None:
    url = chain.start()
    parts = [(number * size, number % 255 + 1) for number in range(32)]
    qemu_io(
        url,
        *(f"aio_write -P {pattern} {offset} {size}" for offset, pattern in parts),
        "aio_flush",
        "flush",
        *(f"aio_read -P {pattern} {offset} {size}" for offset, pattern in reversed(parts)),
        "aio_flush",
    )


def test_an_image_is_converted_onto_it_and_compares_equal(chain: Chain, scratch: Path) -> None:
    url = chain.start()
    image = scratch / "image.raw"
    image.write_bytes(random.Random(5).randbytes(SIZE // 2) + bytes(SIZE // 2))
    succeed("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", str(image), url)
    succeed("qemu-img", "compare", "-f", "raw", "-F", "raw", str(image), url)
    assert chain.disk.read_bytes() == image.read_bytes()


def test_blocks_of_4096_bytes_over_blocks_of_4096_bytes(chain: Chain) -> None:
    url = chain.start(block_bytes=4096)
    qemu_io(url, "write -P 0x55 0 1M", "write -P 0xc4 8k 4M", "flush", "read -P 0x55 0 8k", "read -P 0xc4 8k 4M")


def test_the_secret_comes_from_a_file_and_is_in_no_log(chain: Chain) -> None:
    url = chain.start("--log-level", "debug", chap=Chap("joe", "opensesame12345"))
    qemu_io(url, "write -P 0x55 0 1M", "read -P 0x55 0 1M")
    assert "opensesame12345" not in chain.export.log()


def test_what_is_exported_read_only_is_never_written(chain: Chain) -> None:
    url = chain.start(read_only=True)
    qemu_io(url, "read -P 0 0 1M", read_only=True)
    refuse("qemu-io", "-f", "raw", "-c", "write 0 4k", url)
    assert not any(chain.disk.read_bytes())
