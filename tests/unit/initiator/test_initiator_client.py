from __future__ import annotations

import asyncio
import doctest
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.pollreactor import PollReactor
from twisted.internet.selectreactor import SelectReactor
from twisted.internet.task import deferLater

import initiator
from csvd.errors import ConfigError
from csvd.iscsi.codes import Opcode
from csvd.iscsi.names import is_iscsi_name
from initiator import (
    AuthenticationFailed,
    ConnectFailed,
    Credentials,
    Disk,
    InitiatorError,
    LoginRedirected,
    ProtocolViolation,
    SessionLost,
    SessionOptions,
    TimedOut,
)
from initiator.client import MAX_REDIRECTS, new_isid
from initiator.url import parse_url
from tests.own_reactor import close
from tests.unit.initiator.conftest import Run
from tests.unit.initiator.target_script import Pdu
from tests.unit.initiator.tiny_target import NAME, SECRET, TinyTarget


def test_a_disk_is_read_and_written(run: Run, target: TinyTarget) -> None:
    data = bytes(range(256)) * 2 * 700

    async def work(reactor: Any) -> None:
        async with await initiator.connect(target.url, reactor=reactor) as disk:
            assert (disk.block_count, disk.block_bytes, disk.size_bytes) == (8192, 512, 4 << 20)
            assert disk.capacity.physical_block_bytes == 4096
            await disk.write(11, data)
            assert target.disk[11 * 512 : 11 * 512 + len(data)] == data
            assert await disk.read(11, 700) == data
            buffer = bytearray(len(data))
            await disk.read_into(11, memoryview(buffer))
            assert buffer == data
            await disk.flush()
            assert await disk.nop() < 5

    run(work)
    assert target.logouts == 1


@pytest.mark.parametrize("kind", [SelectReactor, PollReactor, EPollReactor])
def test_any_reactor_with_readers_and_writers_will_do(kind: Callable[[], Any], target: TinyTarget) -> None:
    reactor = kind()
    outcome: list[Any] = []

    async def work() -> bytes:
        async with await initiator.connect(target.url, reactor=reactor) as disk:
            await disk.write(0, b"z" * 2 * 65536)
            return await disk.read(0, 256)

    def ended(result: Any) -> None:
        outcome.append(result)
        reactor.stop()

    reactor.callWhenRunning(lambda: Deferred.fromCoroutine(work()).addBoth(ended))
    reactor.run(installSignalHandlers=False)
    close(reactor)
    assert outcome == [b"z" * 2 * 65536]


def test_a_session_reads_more_than_one_lun(run: Run, target: TinyTarget) -> None:
    async def work(reactor: Any) -> None:
        session = await initiator.login(target.url, reactor=reactor)
        first, second = await Disk.open(session, 0), await Disk.open(session, 1)
        assert await first.report_luns() == [0, 1]
        assert first.size_bytes == second.size_bytes
        assert session.target_alias == "tiny"
        await session.close()

    run(work)
    assert target.logouts == 1


def test_large_transfers_are_cut_at_the_limit_of_the_target_and_at_physical_blocks(run: Run) -> None:
    target = TinyTarget(maximum_blocks=16)

    async def work(reactor: Any) -> None:
        async with await initiator.connect(target.url, reactor=reactor, options=SessionOptions(queue_depth=4)) as disk:
            data = bytes(range(256)) * 2 * 100
            await disk.write(1, data)
            assert await disk.read(1, 100) == data

    run(work)
    target.close()
    lengths = [int.from_bytes(cdb[7:9], "big") for cdb in target.commands if cdb[0] in (0x28, 0x2A)]
    assert sorted(lengths) == [5, 5, 15, 15] + [16] * 10


def test_many_calls_at_once_all_get_their_own_data(run: Run, target: TinyTarget) -> None:
    for block in range(2000):
        target.disk[block * 512 : block * 512 + 512] = block.to_bytes(2, "big") * 256

    async def work(reactor: Any) -> None:
        async with await initiator.connect(target.url, reactor=reactor, options=SessionOptions(queue_depth=8)) as disk:

            async def one(block: int) -> None:
                assert await disk.read(block, 1) == block.to_bytes(2, "big") * 256

            results = await DeferredList([Deferred.fromCoroutine(one(block)) for block in range(2000)])
            assert all(succeeded for succeeded, _ in results)

    run(work)


def test_discovery_gives_the_targets(run: Run, target: TinyTarget) -> None:
    async def work(reactor: Any) -> list[initiator.DiscoveredTarget]:
        return await initiator.discover(f"127.0.0.1:{target.port}", reactor=reactor)

    (found,) = run(work)
    assert found.name == NAME
    assert str(found.addresses[0]) == f"127.0.0.1:{target.port},1"
    assert target.logouts == 1


@pytest.mark.parametrize("in_url", [True, False])
def test_the_right_secret_opens(run: Run, in_url: bool) -> None:
    target = TinyTarget(chap_user="joe")
    url = target.url.replace("//", "//joe%opensesame12345@") if in_url else target.url
    credentials = None if in_url else Credentials("joe", SECRET)

    async def work(reactor: Any) -> None:
        async with await initiator.connect(url, reactor=reactor, credentials=credentials) as disk:
            assert await disk.read(0, 1) == bytes(512)

    run(work)
    target.close()


@pytest.mark.parametrize("credentials", [Credentials("joe", b"not the secret"), Credentials("eve", SECRET), None])
def test_a_wrong_secret_does_not_open(run: Run, credentials: Credentials | None) -> None:
    target = TinyTarget(chap_user="joe")

    async def work(reactor: Any) -> None:
        await initiator.connect(target.url, reactor=reactor, credentials=credentials)

    with pytest.raises(AuthenticationFailed) as caught:
        run(work)
    assert "secret" not in str(caught.value).replace("user and secret", "").replace("user and a secret", "")
    target.close()


def test_a_user_without_a_secret_is_refused_before_anything_is_sent(run: Run) -> None:
    async def work(reactor: Any) -> None:
        await initiator.connect(f"iscsi://joe@192.0.2.1/{NAME}/0", reactor=reactor)

    with pytest.raises(AuthenticationFailed, match="no secret"):
        run(work)


def test_a_redirected_login_goes_where_the_target_is(run: Run, target: TinyTarget) -> None:
    front = TinyTarget(redirect_to=f"127.0.0.1:{target.port},1")

    async def work(reactor: Any) -> str:
        async with await initiator.connect(front.url, reactor=reactor) as disk:
            return str(disk.session.portal)

    assert run(work) == f"127.0.0.1:{target.port}"
    front.close()


def test_all_the_steps_of_a_connect_have_the_time_of_one_call(run: Run, target: TinyTarget) -> None:
    def slowly(pdu: Pdu) -> None:
        time.sleep(0.2)

    target.before = slowly

    async def connected(reactor: Any) -> None:
        await initiator.connect(target.url, reactor=reactor, timeout_s=0.5)

    async def discovered(reactor: Any) -> None:
        await initiator.discover(target.url, reactor=reactor, timeout_s=0.3)

    with pytest.raises(TimedOut, match="login and what belongs to it"):
        run(connected)
    with pytest.raises(TimedOut):
        run(discovered)


class Cuts:
    """Cuts the connection at the first commands of an operation code."""

    def __init__(self, target: TinyTarget, operation_code: int, times: int = 1) -> None:
        self.left = times
        self.operation_code = operation_code
        target.before = self._before

    def _before(self, pdu: Pdu) -> None:
        if pdu.opcode is Opcode.SCSI_COMMAND and pdu.cdb[0] == self.operation_code and self.left:
            self.left -= 1
            raise ConnectionError


@pytest.mark.parametrize("times", [1, 3])
def test_a_disk_that_recovers_goes_on_when_its_connection_is_cut(run: Run, target: TinyTarget, times: int) -> None:
    async def work(reactor: Any) -> None:
        async with initiator.connect(target.url, reactor=reactor) as disk:
            cuts = Cuts(target, 0x2A, times)
            await disk.write(3, b"w" * 512)
            assert cuts.left == 0
            cuts = Cuts(target, 0x28, times)
            assert await disk.read(3, 1) == b"w" * 512
            assert cuts.left == 0

    run(work)
    assert target.logouts == 1


def test_a_disk_that_recovers_does_not_send_again_what_may_not_be(run: Run, target: TinyTarget) -> None:
    compare_and_write = 0x89

    async def work(reactor: Any) -> None:
        async with initiator.connect(target.url, reactor=reactor) as disk:
            Cuts(target, compare_and_write)
            with pytest.raises(SessionLost):
                await disk.compare_and_write(0, bytes(512), bytes(512))
            assert await disk.read(0, 1) == bytes(512)

    run(work)


def test_a_disk_that_recovers_gives_up_at_the_deadline_of_the_call(run: Run) -> None:
    target = TinyTarget()

    async def work(reactor: Any) -> None:
        async with initiator.connect(target.url, reactor=reactor) as disk:
            target.close()
            with pytest.raises(TimedOut):
                await disk.read(0, 1, timeout_s=0.5)

    run(work)


def test_without_recovery_a_cut_connection_is_the_end(run: Run, target: TinyTarget) -> None:
    async def work(reactor: Any) -> None:
        async with initiator.connect(target.url, reactor=reactor, recover=False) as disk:
            Cuts(target, 0x28)
            await disk.read(0, 1)

    with pytest.raises(SessionLost):
        run(work)


def test_a_target_that_redirects_to_itself_is_told(run: Run) -> None:
    front = TinyTarget()
    front.redirect_to = f"127.0.0.1:{front.port}"

    async def work(reactor: Any) -> None:
        await initiator.connect(front.url, reactor=reactor)

    with pytest.raises(LoginRedirected, match="redirects in a circle"):
        run(work)
    assert front.logins == 1
    front.close()


def test_redirects_in_a_circle_are_told_with_the_way(run: Run) -> None:
    one = TinyTarget()
    other = TinyTarget(redirect_to=f"127.0.0.1:{one.port},1")
    one.redirect_to = f"127.0.0.1:{other.port},1"

    async def work(reactor: Any) -> None:
        await initiator.discover(f"127.0.0.1:{one.port}", reactor=reactor)

    with pytest.raises(LoginRedirected) as caught:
        run(work)
    assert f"127.0.0.1:{one.port} -> 127.0.0.1:{other.port} -> 127.0.0.1:{one.port}" in str(caught.value)
    assert (one.logins, other.logins) == (1, 1)
    assert caught.value.address == f"127.0.0.1:{one.port},1"
    one.close()
    other.close()


def test_a_redirect_that_leads_on_and_on_ends(run: Run, target: TinyTarget) -> None:
    chain = [target]
    for _ in range(MAX_REDIRECTS + 1):
        chain.append(TinyTarget(redirect_to=f"127.0.0.1:{chain[-1].port},1"))

    async def work(reactor: Any, first: TinyTarget) -> str:
        async with initiator.connect(first.url, reactor=reactor) as disk:
            return str(disk.session.portal)

    assert run(lambda reactor: work(reactor, chain[MAX_REDIRECTS])) == f"127.0.0.1:{target.port}"
    with pytest.raises(LoginRedirected, match="redirects too often"):
        run(lambda reactor: work(reactor, chain[MAX_REDIRECTS + 1]))
    for one in chain[1:]:
        one.close()


def test_the_addresses_of_one_target_are_asked_for(run: Run, target: TinyTarget) -> None:
    asked: list[str] = []

    def before(pdu: Pdu) -> None:
        if pdu.opcode is Opcode.TEXT_REQUEST:
            asked.append(pdu.keys["SendTargets"])

    target.before = before
    place = parse_url(target.url)

    async def work(reactor: Any) -> None:
        for portal in (target.url, place, f"iscsi://127.0.0.1:{target.port}", place.portal):
            (found,) = await initiator.discover(portal, reactor=reactor)
            assert found.name == NAME
        await initiator.discover(place.portal, target_name=NAME, reactor=reactor)

    run(work)
    assert asked == [NAME, NAME, "All", "All", NAME]


@pytest.mark.parametrize("serial", ["serial-1", "serial-2"])
def test_a_url_may_demand_a_serial_number(run: Run, target: TinyTarget, serial: str) -> None:
    async def work(reactor: Any) -> None:
        async with initiator.connect(f"{target.url}?force_usn={serial}", reactor=reactor) as disk:
            await disk.read(0, 1)

    if serial == "serial-1":
        run(work)
    else:
        with pytest.raises(InitiatorError, match="has the serial number 'serial-1', not 'serial-2'"):
            run(work)
    assert target.logouts == 1


def test_the_options_of_a_url_reach_the_login(run: Run, target: TinyTarget) -> None:
    keys: dict[str, str] = {}
    target.before = lambda pdu: keys.update(pdu.keys) if pdu.opcode is Opcode.LOGIN_REQUEST else None

    async def work(reactor: Any) -> None:
        options = "header_digest=none&data_digest=crc32c&initiator=iqn.2026-11.test:me"
        await initiator.connect(f"{target.url}?{options}", reactor=reactor)

    with pytest.raises(ProtocolViolation):  # the target knows nothing of digests: a demand is not given up
        run(work)
    assert (keys["HeaderDigest"], keys["DataDigest"]) == ("None", "CRC32C")
    assert keys["InitiatorName"] == "iqn.2026-11.test:me"


def test_a_closed_port_is_told_at_once(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

    async def work(reactor: Any) -> None:
        await initiator.connect(f"iscsi://127.0.0.1:{port}/{NAME}/0", reactor=reactor)

    with pytest.raises(ConnectFailed, match="refused"):
        run(work)


def test_a_port_that_accepts_and_says_nothing_times_out(run: Run) -> None:
    async def work(reactor: Any) -> None:
        port = listener.getsockname()[1]
        await initiator.connect(f"iscsi://127.0.0.1:{port}/{NAME}/0", reactor=reactor, timeout_s=0.1)

    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(TimedOut, match="login"):
        run(work)


def test_a_port_that_does_not_accept_times_out(run: Run) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))

        async def work(reactor: Any) -> None:
            await initiator.connect(f"iscsi://127.0.0.1:{port}/{NAME}/0", reactor=reactor, timeout_s=0.2)

        with pytest.raises(ConnectFailed, match="timed out"):
            run(work)
        for filler in fillers:
            filler.close()


def test_a_connection_attempt_can_be_cancelled(run: Run) -> None:
    async def work(reactor: Any) -> None:
        attempt = Deferred.fromCoroutine(
            initiator.connect(f"iscsi://192.0.2.1/{NAME}/0", reactor=reactor, timeout_s=60)
        )
        reactor.callLater(0.01, attempt.cancel)
        with pytest.raises((CancelledError, ConnectFailed)):
            await attempt

    began_s = time.monotonic()
    run(work)
    assert time.monotonic() - began_s < 30  # and not 60


def test_a_name_that_does_not_exist_is_told(run: Run) -> None:
    async def work(reactor: Any) -> None:
        await initiator.connect(f"iscsi://nowhere.invalid/{NAME}/0", reactor=reactor, timeout_s=20)

    with pytest.raises(ConnectFailed):
        run(work)


def test_what_is_no_target_is_a_violation(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        async def work(reactor: Any) -> None:
            attempt = Deferred.fromCoroutine(initiator.connect(f"iscsi://127.0.0.1:{port}/{NAME}/0", reactor=reactor))
            while not accepted:
                await deferLater(reactor, 0.005, accept)
            accepted[0].sendall(b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n" * 4)
            await attempt

        def accept() -> None:
            listener.setblocking(False)
            accepted.append(listener.accept()[0])

        accepted: list[socket.socket] = []
        with pytest.raises(ProtocolViolation):
            run(work)
        accepted[0].close()


def test_a_connection_that_breaks_fails_the_calls_under_way(run: Run, target: TinyTarget) -> None:
    def break_off(request: Pdu) -> bytes | None:
        if request.opcode is Opcode.SCSI_COMMAND and request.cdb[0] == 0x28:
            raise ConnectionError
        return None

    async def work(reactor: Any) -> None:
        async with await initiator.connect(target.url, reactor=reactor, recover=False) as disk:
            target.before = break_off
            results = await DeferredList(
                [Deferred.fromCoroutine(disk.read(block, 1)) for block in range(5)], consumeErrors=True
            )
            for succeeded, failure in results:
                assert not succeeded
                assert isinstance(failure.value, SessionLost)  # type: ignore[attr-defined]
            assert not disk.session.alive

    run(work)


def test_a_connection_that_breaks_is_followed_by_another_and_the_calls_are_done(run: Run, target: TinyTarget) -> None:
    broken: list[Pdu] = []
    isids: list[bytes] = []

    def break_off_once(request: Pdu) -> bytes | None:
        if request.opcode is Opcode.LOGIN_REQUEST:
            isids.append(bytes(request.isid))
        if request.opcode is Opcode.SCSI_COMMAND and request.cdb[0] == 0x28 and not broken:
            broken.append(request)
            raise ConnectionError
        return None

    async def work(reactor: Any) -> None:
        target.before = break_off_once
        async with await initiator.connect(target.url, reactor=reactor) as disk:
            first = disk.session
            reading = [Deferred.fromCoroutine(disk.read(block, 1)) for block in range(5)]
            for succeeded, data in await DeferredList(reading, consumeErrors=True):
                assert succeeded
                assert data == bytes(512)
            assert disk.session is not first
            assert first.ended is not None

    run(work)
    assert len(broken) == 1
    assert len(isids) == 2
    assert isids[0] == isids[1], "or the target would not end the old session"


def test_a_command_that_the_target_keeps_times_out_and_the_session_goes_on(run: Run, target: TinyTarget) -> None:
    def swallow_reads(request: Pdu) -> bytes | None:
        return b"" if request.opcode is Opcode.SCSI_COMMAND and request.cdb[0] == 0x28 else None

    async def work(reactor: Any) -> None:
        async with await initiator.connect(target.url, reactor=reactor) as disk:
            target.before = swallow_reads
            with pytest.raises(TimedOut, match=r"READ\(10\)"):
                await disk.read(0, 1, timeout_s=0.05)
            target.before = None
            assert await disk.read(0, 1) == bytes(512)

    run(work)


def test_a_failed_opening_logs_out(run: Run, target: TinyTarget) -> None:
    async def work(reactor: Any) -> None:
        url = replace(parse_url(target.url), lun=3)

        def no_such_unit(request: Pdu) -> bytes | None:
            if request.opcode is Opcode.SCSI_COMMAND:
                raise ConnectionError
            return None

        target.before = no_such_unit
        await initiator.connect(url, reactor=reactor, recover=False)

    with pytest.raises(SessionLost):
        run(work)


def test_a_wrong_initiator_name_is_refused(run: Run) -> None:
    async def work(reactor: Any) -> None:
        await initiator.discover("127.0.0.1", reactor=reactor, initiator_name="me")

    with pytest.raises(ConfigError):
        run(work)


def examples_of(documentation: str | None) -> dict[str, Any]:
    """Run the examples of a docstring; give the names that they define."""
    names: dict[str, Any] = {}
    for example in doctest.DocTestParser().get_examples(documentation or ""):
        exec(example.source, names)
    return names


def test_the_examples_of_the_package_are_true(target: TinyTarget) -> None:
    other = TinyTarget()
    target.disk[: 1 << 20] = bytes(range(256)) * 4096
    copy = examples_of(initiator.__doc__)["copy_first_megabyte"]
    asyncio.run(copy(target.url, other.url))
    assert other.disk[: 1 << 20] == target.disk[: 1 << 20]
    assert any(cdb[0] == 0x35 for cdb in other.commands)
    other.close()


def test_the_example_of_connect_is_true(target: TinyTarget) -> None:
    target.disk[:512] = b"x" * 512
    documentation = (initiator.connect.__doc__ or "").replace(
        "iscsi://127.0.0.1:3260/iqn.2026-11.example:disk/0", target.url
    )
    assert asyncio.run(examples_of(documentation)["first_block"]()) == b"x" * 512


def test_our_own_name_is_an_iscsi_name() -> None:
    assert is_iscsi_name(initiator.default_initiator_name())


def test_session_identifiers_are_random_ones() -> None:
    assert new_isid(lambda count: bytes(range(count))) == b"\x80\0\1\2\3\4"
    assert len({new_isid() for _ in range(50)}) == 50
