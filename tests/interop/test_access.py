"""Who may log in, and who may write."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bench.targets import Chap, Target
from tests.interop.conftest import Serve
from tests.interop.cunit import parse_cunit
from tests.interop.libiscsi import capacity_bytes
from tests.interop.programs import refuse, run, succeed
from tests.interop.qemu import qemu_io

pytestmark = pytest.mark.interop

CHAP = Chap("alice", "correct-horse-12")
# RFC 7143 section 11.13.5: class 02h, detail 01h.
AUTHENTICATION_FAILURE = "Authentication failure(513)"


@pytest.fixture
def guarded(serve: Serve) -> Target:
    return serve("a.img", create="64M", chap=CHAP)


def test_the_right_secret_logs_in(guarded: Target) -> None:
    url = guarded.url_for(CHAP.user, CHAP.secret)

    assert capacity_bytes(url) == 64 << 20
    qemu_io(url, "write -P 0x5e 0 64k", "read -P 0x5e 0 64k")


def test_the_right_secret_from_the_environment_logs_in(guarded: Target) -> None:
    environment = {"LIBISCSI_CHAP_USERNAME": CHAP.user, "LIBISCSI_CHAP_PASSWORD": CHAP.secret}

    assert succeed("iscsi-readcapacity16", "-s", guarded.url, environment=environment) == "67108864\n"
    assert "Type:DIRECT_ACCESS" in succeed("iscsi-ls", "-s", f"iscsi://{guarded.portal}", environment=environment)


def test_the_right_secret_from_qemus_options_logs_in(guarded: Target) -> None:
    portal, target, lun = guarded.url.removeprefix("iscsi://").split("/")
    options = f"driver=iscsi,transport=tcp,portal={portal},target={target},lun={lun},user={CHAP.user}"
    secret = ["--object", f"secret,id=chap,data={CHAP.secret}"]
    command = ["qemu-io", *secret, "--image-opts", "-c", "read -P 0 0 4k", f"{options},password-secret=chap"]

    assert "read 4096/4096 bytes at offset 0" in succeed(*command)


@pytest.mark.parametrize(
    ("user", "secret"),
    [("alice", "correct-horse-13"), ("alice", "correct-horse-1"), ("bob", CHAP.secret), ("Alice", CHAP.secret)],
    ids=["wrong secret", "shorter secret", "another name", "name in capitals"],
)
def test_wrong_credentials_are_refused(guarded: Target, user: str, secret: str) -> None:
    url = guarded.url_for(user, secret)

    assert AUTHENTICATION_FAILURE in refuse("iscsi-readcapacity16", url)
    assert AUTHENTICATION_FAILURE in refuse("qemu-io", "-f", "raw", "-c", "read 0 512", url)


MUTUAL = Chap("alice", "correct-horse-12", "the-target", "battery-staple-34")


def test_libiscsi_logs_in_to_a_target_that_proves_itself(serve: Serve) -> None:
    target = serve("a.img", create="64M", chap=MUTUAL)
    environment = {
        "LIBISCSI_CHAP_USERNAME": MUTUAL.user,
        "LIBISCSI_CHAP_PASSWORD": MUTUAL.secret,
        "LIBISCSI_CHAP_TARGET_USERNAME": MUTUAL.target_user,
        "LIBISCSI_CHAP_TARGET_PASSWORD": MUTUAL.target_secret,
    }
    asked = "iscsi-readcapacity16", "-s", target.url

    assert succeed(*asked, environment=environment) == "67108864\n"
    assert "Type:DIRECT_ACCESS" in succeed("iscsi-ls", "-s", f"iscsi://{target.portal}", environment=environment)
    # One way is still enough for who asks for no proof.
    assert capacity_bytes(target.url_for(MUTUAL.user, MUTUAL.secret)) == 64 << 20


def test_libiscsi_does_not_log_in_to_a_target_that_proves_something_else(serve: Serve) -> None:
    target = serve("a.img", create="64M", chap=MUTUAL)
    environment = {
        "LIBISCSI_CHAP_USERNAME": MUTUAL.user,
        "LIBISCSI_CHAP_PASSWORD": MUTUAL.secret,
        "LIBISCSI_CHAP_TARGET_USERNAME": MUTUAL.target_user,
        "LIBISCSI_CHAP_TARGET_PASSWORD": "another-staple-34",
    }

    refuse("iscsi-readcapacity16", "-s", target.url, environment=environment)


def test_our_initiator_has_the_target_prove_itself(serve: Serve, scratch: Path) -> None:
    target = serve("a.img", create="64M", chap=MUTUAL)
    files = []
    for name, secret in (("user", MUTUAL.secret), ("target", MUTUAL.target_secret), ("wrong", "another-staple-34")):
        (scratch / name).touch(mode=0o600)
        (scratch / name).write_text(secret)
        files.append(str(scratch / name))
    program = str(Path(sys.executable).with_name("csv-initiator"))
    asked = [program, "info", target.url, "--chap-user", MUTUAL.user, "--chap-secret-file", files[0]]
    asked += ["--chap-target-user", MUTUAL.target_user, "--chap-target-secret-file"]

    assert "64.0 MiB" in succeed(*asked, files[1])
    assert "did not prove itself" in refuse(*asked, files[2])


def test_no_credentials_are_refused(guarded: Target) -> None:
    assert AUTHENTICATION_FAILURE in refuse("iscsi-readcapacity16", guarded.url)


def test_credentials_that_nobody_asked_for_do_no_harm(serve: Serve) -> None:
    target = serve("a.img", create="64M")

    assert capacity_bytes(target.url_for(CHAP.user, CHAP.secret)) == 64 << 20


def test_qemu_opens_a_read_only_disk_for_reading_alone(serve: Serve, scratch: Path) -> None:
    (scratch / "a.img").write_bytes(b"\x27" * (64 << 20))
    target = serve("a.img", read_only=True)

    qemu_io(target.url, "read -P 0x27 0 1M", read_only=True)

    assert "LUN is write protected" in refuse("qemu-io", "-f", "raw", "-c", "write 0 512", target.url)
    assert "LUN is write protected" in refuse("qemu-img", "bench", "-w", "-c", "1", "-f", "raw", target.url)


def test_write_commands_to_a_read_only_disk_are_refused_and_change_nothing(
    serve: Serve, scratch: Path, tell_skipped: Callable[[str], None]
) -> None:
    disk = scratch / "a.img"
    disk.write_bytes(b"\x27" * (64 << 20))
    target = serve(disk.name, read_only=True)

    # It sends each kind of write command and expects DATA PROTECT, WRITE PROTECTED.
    done = run("iscsi-test-cu", "-d", "-t", "ALL.ReadOnly", target.url)

    report = parse_cunit(done.stdout)
    assert (report.ran, report.failed) == (1, 0), str(done)
    for test, reason in report.skipped:
        tell_skipped(f"{test}: {reason}")
        assert reason.endswith("is not implemented"), str(done)
    target.stop()
    assert disk.read_bytes() == b"\x27" * (64 << 20)
