"""The target under test, as a process of its own, and what a run has to tell in the end.

`INTEROP_TARGET=tgtd` puts tgtd in the place of csvd: what fails there too is more likely the peer's or the test's.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Protocol, TypedDict, Unpack

import pytest

from tests.bench.targets import TARGETS, Chap, Export, Target
from tests.conftest import SKIPPED_BY_PEER
from tests.integration.conftest import daemons
from tests.interop.programs import missing_packages

__all__ = ["daemons"]


class How(TypedDict, total=False):
    """The fields of an Export that may be given beside its disks."""

    create: str
    read_only: bool
    chap: Chap
    block_bytes: int
    port: int
    options: tuple[str, ...]


class Serve(Protocol):
    """Start the target under test with these files of `scratch` as its disks."""

    def __call__(self, *disks: str, **how: Unpack[How]) -> Target: ...


@pytest.fixture(scope="session", autouse=True)
def peers() -> None:
    """The programs on the other side of the wire must be there: without them nothing is tested."""
    if missing := missing_packages():
        pytest.fail(f"interop needs packages that are not installed: .ci/apt {' '.join(missing)}", pytrace=False)


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder for disks; pytest's tmp_path would keep gigabytes of them for three runs."""
    with tempfile.TemporaryDirectory(prefix="csvd-interop-") as folder:
        yield Path(folder)


@pytest.fixture
def serve(scratch: Path) -> Iterator[Serve]:
    """Targets under test, each on a free port unless told otherwise.

    In the end every target that the test has not ended itself must drain, exit with
    0, and have met no error that it did not expect.
    """
    name = os.environ.get("INTEROP_TARGET", "csvd")
    started: list[Target] = []

    def start(*disks: str, **how: Unpack[How]) -> Target:
        folder = Path(tempfile.mkdtemp(dir=scratch, prefix="target-"))
        export = Export(tuple(scratch / disk for disk in disks), **how)
        target = TARGETS[name](export, folder)
        started.append(target)
        return target

    try:
        yield start
        for target in started:
            if not target.ended_by_us:
                assert target.stop() == 0, target.log()
            assert "Traceback" not in target.log(), target.log()
    finally:
        for target in started:
            if target.running:
                target.kill()


@pytest.fixture
def port() -> int:
    """A free port that the kernel gives to nobody while the target is away.

    Were it one of those for outgoing connections, another program could get it meanwhile, or the waiting initiator
    itself: a connection from such a port to the same port, where nobody listens, connects to itself.
    """
    first_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        candidate = random.randrange(first_outgoing // 2, first_outgoing)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", candidate))
            return candidate


@pytest.fixture
def tell_skipped(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Put a line on something that a peer's own suite left out into the report of the run."""
    return partial(record_property, SKIPPED_BY_PEER)
