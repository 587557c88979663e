"""The asyncio face: the same calls in plain asyncio programs, on asyncio's loop and on uvloop."""

from __future__ import annotations

import asyncio
import inspect
import os
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import uvloop
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import AlreadyCalled, AlreadyCancelled

import initiator
from csvd.errors import ConfigError
from csvd.iscsi.codes import Opcode, TaskManagementFunction
from initiator import (
    AsyncioDisk,
    AsyncioReservations,
    AsyncioSession,
    AuthenticationFailed,
    CommandFailed,
    ConnectFailed,
    Disk,
    Session,
    SessionClosed,
    SessionLost,
    TimedOut,
)
from initiator.deferred_await import in_task
from initiator.loop_reactor import LoopReactor
from initiator.reservations import Reservations
from tests.unit.initiator.target_script import Pdu
from tests.unit.initiator.tiny_target import NAME, SECRET, TinyTarget

RunLoop = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run_loop(request: pytest.FixtureRequest) -> RunLoop:
    found: RunLoop = request.param
    return found


def test_a_disk_is_read_and_written(run_loop: RunLoop, target: TinyTarget) -> None:
    data = bytes(range(256)) * 2 * 700

    async def main() -> None:
        async with initiator.connect(target.url) as disk:
            assert (disk.block_count, disk.block_bytes, disk.size_bytes, disk.lun) == (8192, 512, 4 << 20, 0)
            await disk.write(11, data)
            assert await disk.read(11, 700) == data
            buffer = bytearray(len(data))
            await disk.read_into(11, memoryview(buffer))
            assert buffer == data
            await disk.flush()
            assert await disk.nop() < 5
            assert disk.session.parameters.max_burst_length == 65536

    run_loop(main())
    assert target.logouts == 1


def test_a_disk_is_awaited_as_well_as_entered(run_loop: RunLoop, target: TinyTarget) -> None:
    async def main() -> None:
        disk = await initiator.connect(target.url)
        assert await disk.read(0, 1) == bytes(512)
        await disk.close()
        async with await asyncio.create_task(initiator.connect(target.url)) as disk:
            assert await asyncio.wait_for(disk.read(0, 1), 20) == bytes(512)

    run_loop(main())
    assert target.logouts == 2


def test_a_session_opens_more_than_one_disk(run_loop: RunLoop, target: TinyTarget) -> None:
    async def main() -> None:
        async with initiator.login(target.url) as session:
            assert (session.target_name, session.target_alias, session.portal_group_tag) == (NAME, "tiny", 1)
            first, second = await AsyncioDisk.open(session, 0), await AsyncioDisk.open(session, 1)
            await first.write(0, b"x" * 512)
            assert await second.read(0, 1) == b"x" * 512
            await session.task_management(TaskManagementFunction.LOGICAL_UNIT_RESET)
        assert not session.alive
        with pytest.raises(SessionClosed):
            await first.read(0, 1)

    run_loop(main())


def test_targets_are_discovered(run_loop: RunLoop, target: TinyTarget) -> None:
    (found,) = run_loop(initiator.discover(f"127.0.0.1:{target.port}"))
    assert (found.name, str(found.addresses[0])) == (NAME, f"127.0.0.1:{target.port},1")


def test_many_calls_at_once_each_get_their_own_data(run_loop: RunLoop, target: TinyTarget) -> None:
    async def main() -> None:
        async with initiator.connect(target.url) as disk:

            async def one(slot: int) -> None:
                data = slot.to_bytes(4, "big") * 128
                await disk.write(slot, data)
                assert await disk.read(slot, 1) == data

            async with asyncio.TaskGroup() as group:
                for slot in range(500):
                    group.create_task(one(slot))

    run_loop(main())


def test_errors_come_as_they_are_and_tell_where_they_were_raised(run_loop: RunLoop, target: TinyTarget) -> None:
    async def refused_command(disk: AsyncioDisk) -> None:
        await disk.command(b"\xf0" + bytes(9))

    async def main() -> None:
        async with initiator.connect(target.url, recover=False) as disk:
            with pytest.raises(CommandFailed) as refused:
                await refused_command(disk)
            assert refused.value.asc == 0x20
            shown = "".join(traceback.format_exception(refused.value))
            assert "refused_command" in shown
            assert ", in command\n" in shown
            target.before = lambda pdu: (_ for _ in ()).throw(ConnectionError)
            with pytest.raises(SessionLost):
                await disk.read(0, 1)

    run_loop(main())


def test_nobody_listens(run_loop: RunLoop) -> None:
    with pytest.raises(ConnectFailed, match="refused"):
        run_loop(initiator.connect(f"iscsi://127.0.0.1:1/{NAME}/0"))


def test_a_name_is_looked_up_in_a_thread(
    run_loop: RunLoop, target: TinyTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up: list[threading.Thread] = []
    real = socket.getaddrinfo

    def look_up(host: str, *args: Any, **kwargs: Any) -> Any:
        if host == "no-such-host.invalid" and not kwargs.get("flags"):
            looked_up.append(threading.current_thread())
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        if host == "tiny.test" and not kwargs.get("flags"):
            looked_up.append(threading.current_thread())
            host = "127.0.0.1"
        return real(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)

    async def main() -> None:
        async with initiator.connect(f"iscsi://tiny.test:{target.port}/{NAME}/0") as disk:
            assert await disk.read(0, 1) == bytes(512)
        with pytest.raises(ConnectFailed, match="the name has no address"):
            await initiator.connect(f"iscsi://no-such-host.invalid/{NAME}/0")

    run_loop(main())
    assert len(looked_up) == 2
    assert threading.main_thread() not in looked_up


class Silence:
    """Leaves READs unanswered, and tells of the ABORT TASKs that come."""

    def __init__(self, target: TinyTarget) -> None:
        self.reads = 0
        self.aborts = 0
        self.over = False
        target.before = self._before

    def _before(self, pdu: Pdu) -> bytes | None:
        if pdu.opcode is Opcode.SCSI_COMMAND and pdu.cdb[0] == 0x28 and not self.over:
            self.reads += 1
            return b""
        if pdu.opcode is Opcode.TASK_MANAGEMENT_REQUEST:
            self.aborts += 1
        return None

    async def heard(self, reads: int) -> None:
        async with asyncio.timeout(20):
            while self.reads < reads:
                await asyncio.sleep(0.01)


def test_a_cancelled_call_aborts_its_command(run_loop: RunLoop, target: TinyTarget) -> None:
    async def main() -> None:
        async with initiator.connect(target.url) as disk:
            silence = Silence(target)
            reading = asyncio.create_task(disk.read(0, 1))
            await silence.heard(1)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            silence.over = True
            assert await disk.read(1, 1) == bytes(512)
            assert (silence.reads, silence.aborts) == (1, 1)

    run_loop(main())


def test_a_timeout_of_asyncio_ends_a_call_of_many_commands(run_loop: RunLoop, target: TinyTarget) -> None:
    async def main() -> None:
        async with initiator.connect(target.url) as disk:
            silence = Silence(target)
            buffer = bytearray(4 << 20)
            reading = asyncio.create_task(disk.read_into(0, buffer))
            await silence.heard(4)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await reading
            assert reading.cancelled()
            silence.over = True
            await disk.read_into(0, buffer)

    run_loop(main())


def test_a_call_has_its_own_deadline(run_loop: RunLoop, target: TinyTarget) -> None:
    async def main() -> None:
        async with initiator.connect(target.url) as disk:
            Silence(target)
            with pytest.raises(TimedOut):
                await disk.read(0, 1, timeout_s=0.05)

    run_loop(main())


def test_a_cancelled_connect_leaves_no_connection(run_loop: RunLoop, target: TinyTarget) -> None:
    async def main() -> None:
        asked = asyncio.Event()
        loop = asyncio.get_running_loop()

        def silent(pdu: Pdu) -> bytes:
            loop.call_soon_threadsafe(asked.set)
            return b""

        target.before = silent
        before = _sockets()
        connecting = asyncio.create_task(initiator.connect(target.url))
        await asked.wait()
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
        assert len(_sockets() - before) <= 1  # the target's own end

    run_loop(main())


def _sockets() -> set[str]:
    """The sockets of this process."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found.add(os.readlink(f"/proc/self/fd/{name}"))
    return {link for link in found if link.startswith("socket:")}


def test_chap_by_a_secret_file(run_loop: RunLoop, tmp_path: Path) -> None:
    target = TinyTarget(chap_user="joe")
    secret = tmp_path / "secret"
    secret.write_bytes(SECRET + b"\n")
    secret.chmod(0o600)

    async def main() -> None:
        place = f"iscsi://joe@127.0.0.1:{target.port}/{NAME}/0"
        async with initiator.connect(place, secret_file=secret) as disk:
            assert await disk.read(0, 1) == bytes(512)
        async with initiator.connect(target.url, user="joe", secret_file=str(secret)) as disk:
            assert await disk.read(0, 1) == bytes(512)
        with pytest.raises(AuthenticationFailed, match="no secret for the user joe"):
            await initiator.connect(place)
        with pytest.raises(ConfigError, match="a secret and no user"):
            await initiator.connect(target.url, secret_file=secret)
        secret.chmod(0o644)
        with pytest.raises(ConfigError, match="others may read"):
            await initiator.connect(place, secret_file=secret)

    run_loop(main())
    target.close()


def test_no_reactor_of_twisted_is_installed(target: TinyTarget) -> None:
    program = (
        "import asyncio, sys, initiator\n"
        "async def main():\n"
        "    async with initiator.connect(sys.argv[1]) as disk:\n"
        "        return len(await disk.read(0, 8))\n"
        "assert asyncio.run(main()) == 4096\n"
        "assert 'twisted.internet.reactor' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", program, target.url], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


# --- the face is whole


FACES = [(Disk, AsyncioDisk), (Session, AsyncioSession), (Reservations, AsyncioReservations)]
OF_TWISTED = {"log", "reactor", "road", "session", "state"} | {
    *("start", "cancel", "submit", "attach", "add", "link_events", "link_lost"),
    *("end", "ended", "leaving", "log_out"),
    *("deadline", "check_range"),
}
"""What the classes have for the parts of this package, and for Twisted code."""


@pytest.mark.parametrize(("behind", "face"), FACES, ids=["disk", "session", "reservations"])
def test_the_face_has_every_public_method(behind: type, face: type) -> None:
    for name, member in inspect.getmembers(behind):
        if name.startswith("_") or name in OF_TWISTED:
            continue
        ours = getattr(face, name, None)
        assert ours is not None, f"add {name} to {face.__name__} in initiator/asyncio_face.py, in one line"
        if inspect.iscoroutinefunction(member):
            assert inspect.iscoroutinefunction(ours), name
            assert inspect.signature(ours) == inspect.signature(member) or name == "open", name
            assert (ours.__doc__ or "").strip(), name


@pytest.mark.parametrize(("behind", "face"), FACES, ids=["disk", "session", "reservations"])
def test_the_facts_of_the_face_have_the_types_of_what_stands_behind(behind: type, face: type) -> None:
    for name, member in inspect.getmembers(behind, lambda member: isinstance(member, property)):
        if name.startswith("_") or name in OF_TWISTED:
            continue
        fact = inspect.getattr_static(face, name)
        wanted = get_type_hints(member.fget)["return"]
        (given,) = fact.__orig_class__.__args__
        assert (eval(given.__forward_arg__) if hasattr(given, "__forward_arg__") else given) == wanted, name


# --- the parts


def test_the_reactor_of_a_loop_has_calls_that_can_be_cancelled(run_loop: RunLoop) -> None:
    async def main() -> list[str]:
        reactor = LoopReactor()
        said: list[str] = []
        reactor.callLater(0, said.append, "at once")
        later = reactor.callLater(0.01, said.append, "later")
        never = reactor.callLater(0.005, said.append, "never")
        never.cancel()
        assert (later.active(), never.active()) == (True, False)
        await asyncio.sleep(0.1)
        assert not later.active()
        with pytest.raises(AlreadyCalled):
            later.cancel()
        with pytest.raises(AlreadyCancelled):
            never.cancel()
        return said

    assert run_loop(main()) == ["at once", "later"]


def test_work_that_is_cancelled_ends_before_its_caller_goes_on() -> None:
    said: list[str] = []
    slow: Deferred[None] = Deferred()

    async def work() -> None:
        try:
            await Deferred()
        except CancelledError:
            await slow
            said.append("the work has ended")
            raise

    async def main() -> None:
        task = asyncio.create_task(in_task(work()))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_later(0.01, slow.callback, None)
        with pytest.raises(asyncio.CancelledError):
            await task
        said.append("the caller goes on")

    asyncio.run(main())
    assert said == ["the work has ended", "the caller goes on"]


def test_a_cancellation_that_comes_with_the_answer_stops_work_of_many_steps() -> None:
    first: Deferred[int] = Deferred()
    steps: list[str] = []

    async def work() -> None:
        steps.append("first")
        await first
        steps.append("second")
        await Deferred()

    async def main() -> None:
        task = asyncio.create_task(in_task(work()))
        await asyncio.sleep(0)
        first.callback(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert steps == ["first"]


def test_a_failure_that_comes_with_a_cancellation_is_not_logged_as_unhandled(capfd: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        first: Deferred[int] = Deferred()
        task = asyncio.create_task(in_task(first))
        await asyncio.sleep(0)
        first.errback(ValueError("too late"))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert capfd.readouterr().err == ""


def test_an_error_of_cleaning_up_does_not_hide_a_cancellation() -> None:
    async def work() -> None:
        try:
            await Deferred()
        except CancelledError:
            raise SessionLost("while cleaning up") from None

    async def main() -> None:
        task = asyncio.create_task(in_task(work()))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as cancelled:
            await task
        assert isinstance(cancelled.value.__cause__, SessionLost)

    asyncio.run(main())


def test_a_fault_in_the_loop_ends_the_connection_and_is_told() -> None:
    lost: list[str] = []
    told: list[dict[str, Any]] = []

    class Faulty:
        def __init__(self, sock: socket.socket) -> None:
            self.sock = sock

        def fileno(self) -> int:
            return self.sock.fileno()

        def doRead(self) -> None:
            raise ZeroDivisionError("a fault")

        def connectionLost(self, reason: Any) -> None:
            lost.append(reason.getErrorMessage())
            asyncio.get_running_loop().remove_reader(self.sock)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: told.append(context))
        ours, theirs = socket.socketpair()
        with ours, theirs:
            LoopReactor().addReader(Faulty(ours))
            theirs.send(b"x")
            await asyncio.sleep(0.05)

    asyncio.run(main())
    assert len(lost) == 1
    assert "a fault" in lost[0]
    assert [type(context["exception"]) for context in told] == [ZeroDivisionError]
