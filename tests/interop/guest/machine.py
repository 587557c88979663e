"""A QEMU guest that runs shell scripts: booted from the kit under TCG, driven over its second serial port."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import tempfile
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.interop.guest.kit import Kit
from tests.readable import wait_readable

BOOT_TIMEOUT_S: Final = 180
STEP_TIMEOUT_S: Final = 60
MEMORY_MIB: Final = 512
CONSOLE_LINES: Final = 60
READY: Final = b"@@ready"
# A script has to fit the guest's serial port: it takes no more while nobody reads.
SCRIPT_BYTES: Final = 3500
COMPLAINT: Final = re.compile(
    r"I/O error|critical \w+ error|conn error|digest|timed out"
    r"|EXT4-fs (error|warning)|XFS .*(error|orrupt)|BUG|WARNING|blocked for more than"
)
KERNEL_ARGUMENTS: Final = (
    "console=ttyS0 quiet panic=-1 mitigations=off nokaslr audit=0 apparmor=0 ipv6.disable=1 "
    "cryptomgr.notests no_timer_check tsc=reliable random.trust_cpu=on"
)


@dataclass(frozen=True, slots=True)
class Step:
    """A script that has ended in the guest, and what it printed to stdout and stderr."""

    script: str
    status: int
    printed: str

    def __str__(self) -> str:
        return f"in the guest: {self.script}\nexit status {self.status}\n{self.printed}"


class Job:
    """A script that runs in the guest while others do; see `Guest.start`."""

    def __init__(self, guest: Guest, script: str, name: str) -> None:
        self._guest = guest
        self._script = script
        self._name = name

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._guest.run(f"test -e /tmp/{self._name}.status").status != 0

    def finish(self, timeout_s: float = STEP_TIMEOUT_S) -> Step:
        """Wait for its end.

        Raises:
            AssertionError: it did not end in time.
        """
        path = f"/tmp/{self._name}"
        wait = f"until [ -e {path}.status ]; do sleep 0.1; done"
        done = self._guest.run(f"{wait}; cat {path}.out; exit $(cat {path}.status)", timeout_s)
        return Step(self._script, done.status, done.printed)

    def succeed(self, timeout_s: float = STEP_TIMEOUT_S) -> str:
        """Wait for its end with exit status 0; gives what it printed.

        Raises:
            AssertionError: it did not end in time, or with another status.
        """
        done = self.finish(timeout_s)
        assert done.status == 0, f"{done}\n{self._guest.console()}"
        return done.printed


class Guest:
    """A booted guest.

    Its network reaches the host's loopback as 127.0.0.1 and as 10.0.2.2; what listens on its port 3260 is reached from
    the host at `portal`. iscsid and udevd run; multipathd does not.

    Args:
        kit: what to boot.

    Raises:
        AssertionError: it was not ready within BOOT_TIMEOUT_S.
    """

    def __init__(self, kit: Kit) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="csvd-guest-")
        self._console = Path(self._folder.name) / "console"
        self._steps = 0
        self._lost = False
        self._received = b""
        port = _free_port()
        self.portal = f"127.0.0.1:{port}"
        # Should the tests themselves be killed, the kernel ends the guest, too.
        setpriv = shutil.which("setpriv")
        guard = [setpriv, "--pdeathsig", "KILL"] if setpriv else []
        self._process = subprocess.Popen(
            [*guard, *_qemu(kit, self._console, port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            self._read_to(READY, "boot", BOOT_TIMEOUT_S)
        except BaseException:
            self.end()
            raise

    @property
    def usable(self) -> bool:
        """Whether it still takes scripts: not after one that did not end in time."""
        return not self._lost and self._process.poll() is None

    def run(self, script: str, timeout_s: float = STEP_TIMEOUT_S) -> Step:
        """Run a script of the shell to its end, in a shell of its own, without input.

        Raises:
            AssertionError: it did not end in time; the guest is no longer usable then.
        """
        script = textwrap.dedent(script).strip()
        self._steps += 1
        end = f"@@{self._steps} "
        sent = f"(\n{script}\n) </dev/null 2>&1; status=$?; echo; echo '{end}'$status\n".encode()
        assert len(sent) <= SCRIPT_BYTES, f"too long for one step: {script}"
        assert self._process.stdin is not None
        self._process.stdin.write(sent)
        self._process.stdin.flush()
        printed = self._read_to(f"\n{end}".encode(), script, timeout_s)
        status = self._read_to(b"\n", script, timeout_s)
        return Step(script, int(status), printed.decode(errors="replace").removesuffix("\n"))

    def succeed(self, script: str, timeout_s: float = STEP_TIMEOUT_S) -> str:
        """What a script that must exit with 0 printed.

        Raises:
            AssertionError: it exited with another status, or did not end in time.
        """
        done = self.run(f"set -e\n{textwrap.dedent(script)}", timeout_s)
        assert done.status == 0, f"{done}\n{self.console()}"
        return done.printed

    def start(self, script: str) -> Job:
        """Run a script, and do not wait for it."""
        name = f"job-{self._steps}"
        script = textwrap.dedent(script).strip()
        self.succeed(
            f"( (\n{script}\n) </dev/null >/tmp/{name}.out 2>&1; echo $? >/tmp/{name}.end; "
            f"mv /tmp/{name}.end /tmp/{name}.status ) >/dev/null 2>&1 &"
        )
        return Job(self, script, name)

    def complaints(self) -> list[str]:
        """What the kernel has said of failed requests, sessions, file systems, or of itself, since the last `hush`."""
        return [line for line in self.succeed("dmesg").splitlines() if COMPLAINT.search(line)]

    def hush(self) -> None:
        """Forget the kernel's messages until now."""
        self.succeed("dmesg -c >/dev/null")

    def console(self) -> str:
        """The last lines of its console: the kernel's messages, and those of daemons."""
        lines = self._console.read_text(errors="replace").splitlines() if self._console.exists() else []
        return "\n".join(["the end of the guest's console:", *lines[-CONSOLE_LINES:]])

    def end(self) -> None:
        """Switch it off, as by its plug."""
        self._process.kill()
        self._process.communicate()
        self._folder.cleanup()

    def _read_to(self, mark: bytes, what: str, timeout_s: float) -> bytes:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        deadline = time.monotonic() + timeout_s
        while (found := self._received.find(mark)) < 0:
            readable = wait_readable(descriptor, deadline - time.monotonic())
            chunk = os.read(descriptor, 65536) if readable else b""
            if not chunk:
                self._lost = True
                reason = "QEMU ended" if readable else f"not done after {timeout_s} s"
                raise AssertionError(f"in the guest: {what}: {reason}\n{self._printed()}\n{self.console()}")
            self._received += chunk.replace(b"\r", b"")
        before = self._received[:found]
        self._received = self._received[found + len(mark) :]
        return before

    def _printed(self) -> str:
        last_words = b""
        if self._process.poll() is not None and self._process.stderr is not None:
            last_words = self._process.stderr.read()
        return (self._received[-2000:] + last_words).decode(errors="replace")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _qemu(kit: Kit, console: Path, port: int) -> list[str]:
    # No ROM for the network card, for its package need not be there, and no display, disk or monitor.
    return [
        "qemu-system-x86_64",
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-machine", "pc", "-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", str(MEMORY_MIB)),
        *("-kernel", str(kit.kernel), "-initrd", str(kit.initramfs), "-append", KERNEL_ARGUMENTS),
        *(
            "-netdev",
            f"user,id=net,hostfwd=tcp:127.0.0.1:{port}-:3260",
            "-device",
            "virtio-net-pci,netdev=net,romfile=",
        ),
        *("-serial", f"file:{console}", "-serial", "stdio"),
    ]
