"""``csv-initiator attach``: other people's programs use a LUN of csvd as a file."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.bench.targets import Export, Target, start_csvd
from tests.interop.programs import SEARCH_PATH, refuse, run, succeed

pytestmark = pytest.mark.interop

MIB = 1 << 20
WAIT_S = 30.0


def program(name: str) -> str:
    found = shutil.which(name, path=SEARCH_PATH)
    assert found is not None, name
    return found


class Attached:
    """A ``csv-initiator attach`` of its own, in the foreground."""

    def __init__(self, url: str, folder: Path, *options: str, before: tuple[str, ...] = ()) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        command = [*before, sys.executable, "-m", "initiator", "attach", url, str(folder), *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline().strip()
        assert self.line, self.process.communicate(timeout=WAIT_S)

    @property
    def file(self) -> Path:
        return self.folder / "disk.img"

    def end(self, number: int | None = signal.SIGTERM) -> tuple[int, str]:
        """Send a signal, or none; give exit status and what it said on stderr."""
        if number is not None:
            self.process.send_signal(number)
        _, said = self.process.communicate(timeout=WAIT_S)
        return self.process.returncode, said


Attach = Callable[..., Attached]


@pytest.fixture
def target(scratch: Path) -> Iterator[Target]:
    with start_csvd(Export((scratch / "disk.img",), create="64M"), scratch) as started:
        yield started


@pytest.fixture
def attach(target: Target, scratch: Path) -> Iterator[Attach]:
    """Attach the disk of the target; what a test leaves attached is unmounted and ended."""
    made: list[Attached] = []

    def now(*options: str, before: tuple[str, ...] = (), folder: Path | None = None) -> Attached:
        made.append(Attached(target.url, folder or scratch / f"mount-{len(made)}", *options, before=before))
        return made[-1]

    yield now
    for one in made:
        if one.process.poll() is None:
            one.process.kill()
            one.process.communicate()
        if os.path.ismount(one.folder) or one.folder in _stale():
            run("fusermount3", "-u", "-z", str(one.folder))


def _stale() -> set[Path]:
    return {Path(line.split()[1]) for line in Path("/proc/mounts").read_text().splitlines() if "fuse.csvd" in line}


def wait_until(true: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < deadline_s, "not in time"
        time.sleep(0.02)


def test_a_disk_is_a_file_as_long_as_it_and_ends_on_a_signal(attach: Attach, target: Target) -> None:
    attached = attach()
    assert attached.line == f"attached {target.url} as {attached.file}"
    assert [entry.name for entry in attached.folder.iterdir()] == ["disk.img"]
    status = attached.file.stat()
    assert (status.st_size, status.st_mode, status.st_uid) == (64 * MIB, 0o100600, os.geteuid())
    with pytest.raises(PermissionError):
        (attached.folder / "other").touch()
    with pytest.raises(PermissionError):
        attached.file.unlink()
    assert attached.end() == (0, "")
    assert not os.path.ismount(attached.folder)


def test_it_ends_when_others_unmount_it(attach: Attach) -> None:
    attached = attach("--name", "lun.raw")
    assert (attached.folder / "lun.raw").stat().st_size == 64 * MIB
    succeed("fusermount3", "-u", str(attached.folder))
    assert attached.end(None) == (0, "")


def test_in_use_it_lets_go_on_a_signal_and_tells_it(attach: Attach) -> None:
    attached = attach()
    held = os.open(attached.file, os.O_RDONLY)
    status, said = attached.end(signal.SIGINT)
    assert status == 0
    assert "its users get errors from now on" in said
    assert "Traceback" not in said
    with pytest.raises(OSError, match=r"not connected|aborted"):
        os.read(held, 1)
    with contextlib.suppress(OSError):
        os.close(held)
    assert not os.path.ismount(attached.folder)


def test_what_is_written_at_any_byte_is_on_the_disk(attach: Attach, scratch: Path) -> None:
    attached, chance, model = attach(), random.Random(11), bytearray(64 * MIB)
    with attached.file.open("r+b", buffering=0) as file:
        for _ in range(300):
            length = chance.choice([1, 7, 511, 512, 513, 4096, 5000, 65536, 300_000, 3 * MIB])
            offset = chance.randrange(len(model) - length)
            data = chance.randbytes(length)
            model[offset : offset + length] = data
            assert os.pwrite(file.fileno(), data, offset) == length
            at = chance.randrange(len(model) - 5000)
            assert os.pread(file.fileno(), 5000, at) == model[at : at + 5000]
        os.fsync(file.fileno())
    assert attached.file.read_bytes() == model
    assert attached.end() == (0, "")
    assert (scratch / "disk.img").read_bytes() == model


@pytest.mark.parametrize("options", [(), ("--direct",)], ids=["cached", "direct"])
def test_a_file_system_is_made_and_checked(attach: Attach, options: tuple[str, ...]) -> None:
    attached = attach(*options)
    succeed(program("mkfs.ext4"), "-q", "-F", str(attached.file))
    assert "clean" in succeed(program("e2fsck"), "-n", str(attached.file))
    assert attached.end() == (0, "")


@pytest.mark.parametrize("options", [(), ("--direct",)], ids=["cached", "direct"])
def test_fio_reads_back_what_it_wrote(attach: Attach, options: tuple[str, ...]) -> None:
    attached = attach(*options)
    job = ["--name=verify", f"--filename={attached.file}", "--size=48M", "--io_size=48M", "--minimal"]
    load = ["--rw=randrw", "--bsrange=512-128k", "--bs_unaligned=0", "--ioengine=libaio", "--direct=1", "--iodepth=16"]
    succeed(
        "fio",
        *job,
        *load,
        "--verify=crc32c",
        "--verify_fatal=1",
        "--verify_state_save=0",
        "--randseed=5",
        timeout_s=200,
    )
    assert attached.end() == (0, "")


def test_qemu_io_writes_odd_bytes_and_discards(attach: Attach, scratch: Path) -> None:
    attached = attach()
    out = succeed(
        *("qemu-io", "-f", "raw", "-c", "write -P 7 4097 100001", "-c", "read -P 7 4097 100001"),
        *("-c", "write -z 8192 65536", "-c", "read -P 0 8192 65536", "-c", "discard 32M 4M", "-c", "flush"),
        str(attached.file),
    )
    assert "Pattern verification failed" not in out
    assert attached.end() == (0, "")
    with (scratch / "disk.img").open("rb") as disk:
        disk.seek(4096)
        assert disk.read(4097) == b"\0" + b"\7" * 4095 + b"\0"


def test_dd_and_cp_overwrite_the_disk_and_do_not_shorten_it(attach: Attach, scratch: Path) -> None:
    attached, image = attach(), scratch / "image"
    image.write_bytes(random.Random(3).randbytes(5 * MIB + 123))
    succeed("cp", str(image), str(attached.file))
    assert attached.file.stat().st_size == 64 * MIB
    succeed("dd", f"if={image}", f"of={attached.file}", "bs=1M", "seek=20", "conv=notrunc,fsync")
    with attached.file.open("rb") as file:
        assert file.read(5 * MIB + 123) == image.read_bytes()
        file.seek(20 * MIB)
        assert file.read(5 * MIB + 123) == image.read_bytes()
    with pytest.raises(OSError, match="File too large"):
        os.truncate(attached.file, 65 * MIB)
    with attached.file.open("r+b", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        os.pwrite(file.fileno(), b"x", 64 * MIB)
    assert attached.end() == (0, "")


def test_a_hole_gives_its_blocks_back_to_the_target(attach: Attach, scratch: Path) -> None:
    attached = attach()
    with attached.file.open("r+b", buffering=0) as file:
        file.write(b"x" * 16 * MIB)
        os.fsync(file.fileno())
        before = (scratch / "disk.img").stat().st_blocks
        succeed(program("fallocate"), "--punch-hole", "--offset", "1M", "--length", "8M", str(attached.file))
        assert (scratch / "disk.img").stat().st_blocks <= before - 8 * MIB // 512
        assert os.pread(file.fileno(), 10 * MIB, 0) == b"x" * MIB + bytes(8 * MIB) + b"x" * MIB
    assert attached.end() == (0, "")


def test_read_only_is_erofs(attach: Attach) -> None:
    attached = attach("--read-only")
    assert attached.file.read_bytes() == bytes(64 * MIB)
    with pytest.raises(OSError, match="Read-only file system"):
        attached.file.open("r+b")
    assert attached.end() == (0, "")


def test_a_disk_that_is_write_protected_is_erofs(scratch: Path) -> None:
    export = Export((scratch / "golden.img",), create="8M", read_only=True)
    with (scratch / "golden.img").open("wb") as golden:
        golden.truncate(8 * MIB)
    with start_csvd(export, scratch) as protected:
        attached = Attached(protected.url, scratch / "mount")
        try:
            with attached.file.open("r+b", buffering=0) as file, pytest.raises(OSError, match="Read-only file system"):
                file.write(bytes(512))
        finally:
            assert attached.end()[0] == 0


def test_a_target_that_is_gone_is_eio_and_it_still_ends_well(attach: Attach, target: Target) -> None:
    attached = attach("--timeout", "2", "--direct")
    with attached.file.open("rb", buffering=0) as file:
        assert file.read(512) == bytes(512)
        target.kill()
        began_s = time.monotonic()
        with pytest.raises(OSError, match="Input/output error"):
            os.pread(file.fileno(), 512, 4096)
        assert time.monotonic() - began_s < WAIT_S
    status, said = attached.end()
    assert not os.path.ismount(attached.folder)
    assert status == 1  # what was written before may not be durable: that is told
    assert "csv-initiator: " in said
    assert "Traceback" not in said


def test_while_a_target_is_away_its_users_wait_and_what_it_may_have_lost_is_told(scratch: Path, port: int) -> None:
    export = Export((scratch / "disk.img",), create="64M", port=port)
    chance, folder = random.Random(2), scratch / "mount"
    model = bytearray(8 * MIB)
    started: list[Target] = []

    def start() -> None:
        (scratch / f"target-{len(started)}").mkdir()
        started.append(start_csvd(export, scratch / f"target-{len(started)}"))

    start()
    attached = Attached(started[0].url, folder, "--timeout", "60", "--direct")
    try:
        descriptor = os.open(attached.file, os.O_RDWR)
        written: list[int] = []

        def write() -> None:
            for _ in range(20):
                data, offset = chance.randbytes(chance.randrange(1, 200_000)), chance.randrange(len(model) - 200_000)
                model[offset : offset + len(data)] = data
                written.append(os.pwrite(descriptor, data, offset) - len(data))

        for turn in range(1, 4):
            writer = threading.Thread(target=write)
            writer.start()
            wait_until(lambda turn=turn: len(written) > 20 * turn - 15)  # type: ignore[misc]
            started[-1].kill()
            start()
            writer.join()
            assert written == [0] * 20 * turn
        assert os.pread(descriptor, len(model), 0) == model
        # For all that is known here the target lost its power, and what it had in its cache: that is told once.
        with pytest.raises(OSError, match="Input/output error"):
            os.fsync(descriptor)
        assert os.pwrite(descriptor, model, 0) == len(model)
        os.fsync(descriptor)
        os.close(descriptor)
        assert attached.end() == (0, "")
        assert (scratch / "disk.img").read_bytes()[: len(model)] == model
    finally:
        if attached.process.poll() is None:
            attached.process.kill()
            attached.process.communicate()
        if folder in _stale():
            run("fusermount3", "-u", "-z", str(folder))
        for one in started:
            if one.running:
                one.kill()


def test_in_the_background_it_returns_when_it_is_attached(target: Target, scratch: Path) -> None:
    folder = scratch / "mount"
    folder.mkdir()
    command = [sys.executable, "-m", "initiator", "attach", target.url, str(folder), "--background"]
    assert succeed(*command) == ""
    try:
        (folder / "disk.img").open("r+b").close()
        assert os.path.ismount(folder)
    finally:
        succeed("fusermount3", "-u", str(folder))
    bad = target.url.replace("/0", "/99")
    assert "LUN 99 is not there" in refuse(*command[:4], bad, *command[5:])


def test_who_may_not_mount_there_is_told(target: Target, scratch: Path) -> None:
    said = refuse(sys.executable, "-m", "initiator", "attach", target.url, str(scratch / "none"))
    assert "does not exist" in said
    said = refuse(sys.executable, "-m", "initiator", "attach", target.url, str(scratch), "--name", "a/b")
    assert "no name of a file" in said


def test_without_root_it_works_as_well(attach: Attach, scratch: Path, request: pytest.FixtureRequest) -> None:
    """Where this runs as root, another user attaches; else who runs this is one without root."""
    before: tuple[str, ...] = ()
    folder = scratch / "theirs"
    folder.mkdir()
    if os.geteuid() == 0:
        os.chown(folder, 65534, 65534)
        scratch.chmod(0o755)
        # It may read all files, for this Python may be in a folder of root's; it may not mount.
        before = (program("setpriv"), "--reuid=65534", "--regid=65534", "--clear-groups")
        before += ("--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search")
        # udev lets everybody open it; where there is no udev, as in a container, root alone may.
        mode = os.stat("/dev/fuse").st_mode
        os.chmod("/dev/fuse", 0o666)
        request.addfinalizer(lambda: os.chmod("/dev/fuse", mode & 0o777))
    attached = attach(before=before, folder=folder)
    data = random.Random(1).randbytes(MIB)
    script = "import sys; f = open(sys.argv[1], 'r+b'); f.write(sys.stdin.buffer.read())"
    subprocess.run([*before, sys.executable, "-c", script, str(attached.file)], input=data, check=True, timeout=WAIT_S)
    assert attached.end() == (0, "")
    assert (scratch / "disk.img").read_bytes()[:MIB] == data
