"""iSCSI targets as processes of their own: `csvd serve` and tgtd, started and ended by one interface."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

IQN = "iqn.2026-11.io.csvd.test:disk"
START_TIMEOUT_S = 30
STOP_TIMEOUT_S = 30
POLL_S = 0.02

T = TypeVar("T")


class TargetFailed(Exception):
    """A target did not start, did not stop, or refused to be configured; says what it printed."""


@dataclass(frozen=True, slots=True)
class Chap:
    """The name and secret that an initiator must prove (RFC 7143 section 12.1.3), and the target's own, if any."""

    user: str
    secret: str
    target_user: str = ""
    target_secret: str = ""


@dataclass(frozen=True, slots=True)
class Export:
    """What a target is asked to serve: one target name, a LUN for each disk, all on one loopback portal.

    Args:
        disks: files, in the order of their LUNs.
        create: size of the sparse file to make where one is missing, as `csvd serve --create` takes it; None: none.
        read_only: every LUN is write-protected.
        chap: what an initiator must prove; None: nothing.
        block_bytes: logical block length.
        port: TCP port on 127.0.0.1; 0 takes a free one.
        urls: disks of `csvd serve` that are no files, with the LUNs after those.
        options: further options of `csvd serve`; tgtd knows none of them.
        digests: an initiator that wants CRC32C digests gets them, also from tgtd, which has to be told.
    """

    disks: tuple[Path, ...]
    create: str | None = None
    read_only: bool = False
    chap: Chap | None = None
    block_bytes: int = 512
    port: int = 0
    urls: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    digests: bool = False


class Target:
    """A running target; leaving its context kills it where it still runs.

    Args:
        name: the row of `TARGETS` that started it.
        process: the daemon; nothing else is ever signalled.
        urls: libiscsi's URL of each disk, `iscsi://HOST:PORT/IQN/LUN`, in the order of `Export.disks`; then those at
            further portals.
        log: what the daemon wrote to stderr.
        quit_politely: asks the daemon to drain and exit.

    `ended_by_us` is true from the first `stop` or `kill` on.
    """

    def __init__(
        self,
        name: str,
        process: subprocess.Popen[bytes],
        urls: Sequence[str],
        log: Path,
        quit_politely: Callable[[], None],
    ) -> None:
        self.name = name
        self.urls = tuple(urls)
        self.ended_by_us = False
        self._process = process
        self._log = log
        self._quit_politely = quit_politely

    def __enter__(self) -> Target:
        return self

    def __exit__(self, *_: object) -> None:
        if self.running:
            self.kill()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def url(self) -> str:
        """URL of the first disk."""
        return self.urls[0]

    @property
    def portal(self) -> str:
        """`HOST:PORT`."""
        return self.url.removeprefix("iscsi://").partition("/")[0]

    @property
    def portals(self) -> tuple[str, ...]:
        """All portals, each `HOST:PORT`."""
        return tuple(dict.fromkeys(url.removeprefix("iscsi://").partition("/")[0] for url in self.urls))

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def url_for(self, user: str, secret: str, disk: int = 0) -> str:
        """The URL of a disk with the name and secret in it, as libiscsi and QEMU take them."""
        return self.urls[disk].replace("iscsi://", f"iscsi://{user}%{secret}@", 1)

    def stop(self) -> int:
        """Let it drain and end; gives its exit status.

        Raises:
            TargetFailed: it had ended by itself, or did not end within STOP_TIMEOUT_S; it is killed then.
        """
        if not self.running:
            raise TargetFailed(f"{self.name} had ended by itself with {self._process.returncode}:\n{self.log()}")
        self.ended_by_us = True
        self._quit_politely()
        try:
            return self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise TargetFailed(f"{self.name} did not end within {STOP_TIMEOUT_S} s:\n{self.log()}") from None

    def kill(self) -> None:
        """SIGKILL, and wait until the process is gone."""
        self.ended_by_us = True
        self._process.kill()
        self._process.wait()

    def log(self) -> str:
        return self._log.read_text(errors="replace")


def _secret_file(path: Path, secret: str) -> str:
    path.touch(mode=0o600)
    path.write_text(secret + "\n")
    return str(path)


def start_csvd(export: Export, folder: Path) -> Target:
    """Start `csvd serve` and wait for its `ready` lines. `folder` takes its secret file and its output.

    Raises:
        TargetFailed: it ended, or did not say `ready` for every disk within START_TIMEOUT_S.
    """
    command = [str(Path(sys.executable).with_name("csvd")), "serve", *map(str, export.disks), *export.urls]
    command += ["--portal", f"127.0.0.1:{export.port}", "--iqn", IQN]
    if export.create is not None:
        command += ["--create", export.create]
    if export.block_bytes != 512:
        command += ["--block-size", str(export.block_bytes)]
    if export.read_only:
        command.append("--read-only")
    if export.chap is not None:
        secret_file = _secret_file(folder / "chap-secret", export.chap.secret)
        command += ["--chap-user", export.chap.user, "--chap-secret-file", secret_file]
        if export.chap.target_user:
            secret_file = _secret_file(folder / "chap-target-secret", export.chap.target_secret)
            command += ["--chap-target-user", export.chap.target_user, "--chap-target-secret-file", secret_file]
    command += export.options
    output, log = folder / "csvd.stdout", folder / "csvd.stderr"
    process = spawn(command, output, log)

    portals = command.count("--portal")

    def ready_urls() -> list[str] | None:
        urls = [line.removeprefix("ready ") for line in whole_lines(output) if line.startswith("ready ")]
        return urls if len(urls) == (len(export.disks) + len(export.urls)) * portals else None

    urls = wait_until(ready_urls, "csvd", process, log)
    return Target("csvd", process, urls, log, process.terminate)


def start_tgtd(export: Export, folder: Path) -> Target:
    """Start a tgtd of our own: its control socket is in `folder`, so no other tgtd is met and no root is needed.

    LUN 0 of a tgtd target is its controller; the disks are LUN 1, 2, …

    Raises:
        TargetFailed: tgtd ended or did not answer within START_TIMEOUT_S, or tgtadm refused a step.
    """
    for disk in export.disks:
        if export.create is not None and not disk.exists():
            subprocess.run(["truncate", "-s", export.create, disk], check=True)
    output, log = folder / "tgtd.stdout", folder / "tgtd.stderr"
    environment = {"TGT_IPC_SOCKET": str(folder / "tgtd.socket")}
    command = [_program("tgtd"), "-f", "-C", "1", "--iscsi", f"portal=127.0.0.1:{export.port}"]
    process = spawn(command, output, log, environment)

    def tgtadm(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [_program("tgtadm"), "-C", "1", "--lld", "iscsi", *arguments],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=START_TIMEOUT_S,
        )

    def portal() -> str | None:
        shown = tgtadm("--op", "show", "--mode", "portal").stdout
        return shown.removeprefix("Portal: ").partition(",")[0] if shown.startswith("Portal: ") else None

    def quit_politely() -> None:
        # tgtd ignores SIGTERM as long as it has a target.
        tgtadm("--op", "delete", "--mode", "target", "--tid", "1", "--force")
        tgtadm("--op", "delete", "--mode", "system")

    address = wait_until(portal, "tgtd", process, log)
    target = Target(
        "tgtd", process, [f"iscsi://{address}/{IQN}/{lun + 1}" for lun in range(len(export.disks))], log, quit_politely
    )
    for step in _tgtadm_steps(export):
        done = tgtadm(*step)
        if done.returncode:
            target.kill()
            raise TargetFailed(f"tgtadm {' '.join(step)}: {done.stderr.strip()}\n{target.log()}")
    return target


def _tgtadm_steps(export: Export) -> list[list[str]]:
    steps = [["--op", "new", "--mode", "target", "--tid", "1", "-T", IQN]]
    for lun, disk in enumerate(export.disks, start=1):
        unit = ["--mode", "logicalunit", "--tid", "1", "--lun", str(lun)]
        steps.append(["--op", "new", *unit, "-b", str(disk), "--blocksize", str(export.block_bytes)])
        if export.read_only:
            steps.append(["--op", "update", *unit, "--params", "readonly=1"])
    if export.chap is not None:
        user = ["--mode", "account", "--user", export.chap.user]
        steps.append(["--op", "new", *user, "--password", export.chap.secret])
        steps.append(["--op", "bind", *user, "--tid", "1"])
        if export.chap.target_user:
            own = ["--mode", "account", "--user", export.chap.target_user]
            steps.append(["--op", "new", *own, "--password", export.chap.target_secret])
            steps.append(["--op", "bind", *own, "--tid", "1", "--outgoing"])
    if export.digests:
        update = ["--op", "update", "--mode", "target", "--tid", "1"]
        steps += [[*update, "--name", name, "--value", "CRC32C,None"] for name in ("HeaderDigest", "DataDigest")]
    steps.append(["--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL"])
    return steps


TARGETS: Mapping[str, Callable[[Export, Path], Target]] = {"csvd": start_csvd, "tgtd": start_tgtd}


def cpu_seconds(pid: int) -> float:
    """User and system time that a process, all its threads and its living children have used until now."""
    ticks = parse_cpu_ticks(Path(f"/proc/{pid}/stat").read_text())
    return ticks / os.sysconf("SC_CLK_TCK") + sum(map(cpu_seconds, children(pid)))


def memory_mib(pid: int, field: str) -> float:
    """VmRSS (resident now) or VmHWM (the most until now) of a process and its living children, from proc(5)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return parse_kib(status, field) / 1024 + sum(memory_mib(child, field) for child in children(pid))


def children(pid: int) -> list[int]:
    """The living children of a process."""
    files = (Path(f"/proc/{pid}/task/{thread}/children") for thread in os.listdir(f"/proc/{pid}/task"))
    return [int(child) for file in files if file.exists() for child in file.read_text().split()]


def parse_kib(status: str, field: str) -> int:
    """A field of /proc/PID/status that is given in kB, which are KiB.

    Raises:
        TargetFailed: it is not there: the process has ended.
    """
    for line in status.splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0])
    raise TargetFailed(f"the process is gone: no {field} in its status")


def parse_cpu_ticks(stat: str) -> int:
    """utime + stime of a line of /proc/PID/stat (proc(5)); the command name in it may hold blanks and brackets."""
    fields = stat.rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def spawn(
    command: Sequence[str], output: Path, log: Path, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    # Should the tests themselves be killed, the kernel ends the target too: no daemon is left on a person's machine.
    setpriv = shutil.which("setpriv")
    guarded = [setpriv, "--pdeathsig", "KILL", *command] if setpriv else list(command)
    with output.open("wb") as stdout, log.open("ab") as stderr:
        return _popen(guarded, stdout, stderr, environment or {})


def _popen(
    command: Sequence[str], stdout: IO[bytes], stderr: IO[bytes], environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, env={**os.environ, **environment}
    )


def _program(name: str) -> str:
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if path is None:
        raise TargetFailed(f"{name} is not installed: .ci/apt tgt")
    return path


def whole_lines(file: Path) -> list[str]:
    return file.read_text(errors="replace").rpartition("\n")[0].splitlines()


def wait_until(ask: Callable[[], T | None], name: str, process: subprocess.Popen[bytes], log: Path) -> T:
    deadline = time.monotonic() + START_TIMEOUT_S
    while (answer := ask()) is None:
        ended = process.poll()
        late = time.monotonic() > deadline
        if ended is not None or late:
            process.kill()
            process.wait()
            reason = f"was not ready within {START_TIMEOUT_S} s" if ended is None else f"ended with {ended}"
            raise TargetFailed(f"{name} {reason}:\n{log.read_text(errors='replace')}")
        time.sleep(POLL_S)
    return answer
