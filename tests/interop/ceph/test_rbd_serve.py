"""`csvd serve rbd:…`: an image as a LUN, used by QEMU; and by QEMU's own rbd driver beside it, to compare."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.interop.ceph.cluster import Ceph
from tests.interop.libiscsi import capacity_bytes
from tests.interop.programs import run, succeed
from tests.interop.qemu import QemuIoSession, qemu_io

pytestmark = pytest.mark.interop

MIB = 1 << 20
TIMEOUT_S = 60


class Served:
    """A `csvd serve` with one disk."""

    def __init__(self, log: Path, disk: str, *options: str) -> None:
        self.log = log
        self.process = subprocess.Popen(
            [sys.executable, "-m", "csvd", "serve", disk, "--portal", "127.0.0.1:0", *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log.open("wb"),
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("ready "), log.read_text()
        self.url = line.split()[1]

    def stop(self) -> None:
        """It must end well, and with no fault in its log."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(TIMEOUT_S) == 0, self.log.read_text()
        assert "Traceback" not in self.log.read_text()


@contextmanager
def serving(folder: Path, disk: str, *options: str) -> Iterator[Served]:
    """Start one, and see that it ends well."""
    served = Served(folder / "log", disk, *options)
    try:
        yield served
        served.stop()
    finally:
        if served.process.poll() is None:
            served.process.kill()
            served.process.wait()


def serve_fails(*arguments: str) -> str:
    """The one line that a csvd serve prints which must fail."""
    done = run(sys.executable, "-m", "csvd", "serve", *arguments, "--portal", "127.0.0.1:0")
    assert done.status == 1, str(done)
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def test_qemu_io_writes_reads_discards_and_zeroes_an_image_that_is_made_for_it(ceph: Ceph, tmp_path: Path) -> None:
    with serving(tmp_path, ceph.url("served"), "--create", "64M") as served:
        assert ":served/0" in served.url
        assert capacity_bytes(served.url) == 64 * MIB
        qemu_io(
            served.url,
            "write -P 1 0 1M",
            "write -P 2 3M 5M",
            "aio_write -P 3 10M 1M",
            "aio_write -P 4 12M 64k",
            "aio_write -P 5 14M 512",
            "aio_flush",
            "read -P 1 0 1M",
            "read -P 2 3M 5M",
            "read -P 3 10M 1M",
            "read -P 0 11M 1M",
            "read -P 4 12M 64k",
            "read -P 5 14M 512",
            "write -z 4M 1536",
            "discard 6M 1M",
            "discard 7340544 512",
            "read -P 2 3M 1M",
            "read -P 0 4M 1536",
            "read -P 2 4195840 2095616",
            "read -P 0 6M 1M",
            "read -P 2 7M 512",
            "read -P 0 7340544 512",
            "read -P 2 7341056 512",
        )
    # What QEMU's own driver finds in the image itself.
    qemu_io(
        ceph.qemu_url("served"),
        "read -P 1 0 1M",
        "read -P 2 3M 1M",
        "read -P 0 4M 1536",
        "read -P 0 6M 1M",
        "read -P 0 7340544 512",
        "read -P 2 7341056 512",
        "read -P 3 10M 1M",
        "read -P 4 12M 64k",
        "read -P 5 14M 512",
        "write -P 9 20M 1M",
    )
    with serving(tmp_path, ceph.url("served"), "--read-only") as served:
        qemu_io(served.url, "read -P 9 20M 1M", "read -P 1 0 1M", read_only=True)


def test_an_image_of_random_data_goes_through_it_and_compares_equal(ceph: Ceph, tmp_path: Path) -> None:
    image = tmp_path / "image.raw"
    with image.open("wb") as file:
        file.truncate(96 * MIB)
        for at in (0, 7, 33, 60, 95):
            file.seek(at * MIB)
            file.write(os.urandom(MIB))
    with serving(tmp_path, ceph.url(ceph.new_image(96 * MIB))) as served:
        succeed("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", str(image), served.url)
        told = succeed("qemu-img", "compare", "-f", "raw", "-F", "raw", str(image), served.url)
    assert "Images are identical." in told


def test_writes_wait_for_a_daemon_that_is_killed_and_comes_back(ceph: Ceph, tmp_path: Path) -> None:
    with (
        serving(tmp_path, ceph.url(ceph.new_image(16 * MIB)), "--disk-timeout-s", "60") as served,
        QemuIoSession(served.url) as io,
    ):
        io.do("write -P 7 0 4M")
        ceph.kill_osd(0)
        io.send("write -P 8 4M 4M")
        ceph.start_osd(0)
        io.finish("write -P 8 4M 4M")
        io.do("read -P 7 0 4M")
        io.do("read -P 8 4M 4M")


def test_it_ends_when_it_is_told_to_though_its_cluster_is_gone(tmp_path: Path) -> None:
    with Ceph() as cluster:
        image = cluster.new_image(16 * MIB)
        with serving(tmp_path, cluster.url(image), "--disk-timeout-s", "3") as served, QemuIoSession(served.url) as io:
            io.do("write -P 7 0 4M")
            cluster.pause_osd(0)
            io.send("write -P 8 4M 64k")
            time.sleep(0.2)
            served.stop()


def test_the_key_of_a_user_may_be_in_a_secret_file(ceph: Ceph, tmp_path: Path) -> None:
    image = ceph.new_image(16 * MIB)
    url = f"rbd:pool/{image}:id=csvd:conf={ceph.conf}"
    secret = tmp_path / "key"
    secret.touch(0o600)
    secret.write_text((ceph.folder / "csvd.keyring").read_text().split(" = ")[1])
    with serving(tmp_path, url, "--disk-secret-file", str(secret)) as served:
        qemu_io(served.url, "write -P 5 0 1M", "read -P 5 0 1M")
    # Without it the user is a stranger.
    assert "client.csvd may not" in serve_fails(url)


def test_what_is_wrong_is_one_clear_line(ceph: Ceph, tmp_path: Path) -> None:
    image = ceph.new_image(MIB, features=1 | 4 | 8 | 16)
    assert "no such image" in serve_fails(ceph.url("none"))
    refused = serve_fails(ceph.url(image))
    hint = f"rbd feature disable pool/{image} fast-diff object-map exclusive-lock"
    assert hint in refused
    assert "no pool nowhere" in serve_fails(ceph.url("x").replace("rbd:pool/", "rbd:nowhere/"))
    assert "can not read the keyring" in serve_fails(ceph.url("x", user="nobody"))
    assert "Ceph's configuration" in serve_fails("rbd:pool/x:conf=/none/ceph.conf")
    assert "is there with" in serve_fails(ceph.url(ceph.new_image(MIB)), "--create", "2M")
    # The way out that is told of leads out.
    succeed(*hint.split(), "-c", str(ceph.conf), "--id", "admin")
    with serving(tmp_path, ceph.url(image)) as served:
        assert capacity_bytes(served.url) == MIB
