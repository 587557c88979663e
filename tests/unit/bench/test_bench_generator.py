from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from crc32c import crc32c

from tests.bench import generator, wire
from tests.bench.generator import main, percentile
from tests.bench.loads import parse_generator
from tests.bench.wire import (
    ANSWER,
    COMMAND,
    DATA_IN,
    DATA_OUT,
    LOGIN,
    LOGOUT,
    NOP_IN,
    NOP_OUT,
    R2T,
    SCSI_RESPONSE,
    Agreed,
    Place,
    WireFailed,
    data_out,
    receive_pdu,
    write_command,
)

KEYS = "TargetPortalGroupTag=1\0DataDigest={}\0MaxRecvDataSegmentLength=1024\0FirstBurstLength=1024\0"


@dataclass
class Peer:
    """A target that knows one session: READs bring zeros, WRITEs are asked for by R2T beyond the first KiB."""

    status: int = 0
    digest_error: int = 0
    offers_digests: bool = True
    window: int = 32
    told: Counter[str] = field(default_factory=Counter)
    written: bytes = b""
    rest: dict[bytes, int] = field(default_factory=dict)

    def serve(self, sock: socket.socket) -> None:
        self._digests, self._stat_sn, self._cmd_sn = False, 0, 1
        while True:
            try:
                header, data = receive_pdu(sock, data_digest=self._digests)
            except (WireFailed, OSError):
                return
            answer = self._answer(header, data)
            sock.sendall(answer)
            if header[0] & 0x3F == LOGOUT:
                return

    def _answer(self, header: bytes, data: bytes) -> bytes:
        opcode = header[0] & 0x3F
        if opcode == LOGIN:
            self.told["logins"] += 1
            wants = b"DataDigest=CRC32C" in data
            text = KEYS.format("CRC32C" if wants and self.offers_digests else "None").encode()
            answer = self._pdu(0x23, 0x87, header, text)
            self._digests = wants and self.offers_digests
            return answer
        if opcode == DATA_OUT:
            return self._data(header, data)
        if opcode == NOP_OUT:
            self.told["pings"] += 1
            return self._pdu(NOP_IN, 0x80, header)
        if opcode == LOGOUT:
            self.told["logouts"] += 1
            return self._pdu(0x26, 0x80, header)
        self._cmd_sn += 1
        code, lba, length = header[32], int.from_bytes(header[34:42], "big"), int.from_bytes(header[20:24], "big")
        self.told[f"{code:#x}"] += 1
        assert lba % (length // 512 or 1) == 0
        if code == 0x88:
            if self.status:
                return self._pdu(SCSI_RESPONSE, 0x80, header, status=self.status)
            return self._pdu(DATA_IN, 0x81, header, bytes(length))
        if code == 0x8A:
            self.rest[header[16:20]] = length
            self.told["FUA"] += header[33] >> 3 & 1
            return self._data(header, data)
        # The first command after a login meets a unit attention condition.
        return self._pdu(SCSI_RESPONSE, 0x80, header, status=2 if self.told["0x0"] == 1 else 0)

    def _data(self, header: bytes, data: bytes) -> bytes:
        tag = header[16:20]
        self.written += data
        self.rest[tag] -= len(data)
        if self.rest[tag] and header[1] & 0x80:
            offset = 4096 - self.rest[tag]
            request = self._pdu(R2T, 0x80, header)
            return (
                request[:20]
                + bytes((0, 0, 0, 7))
                + request[24:40]
                + offset.to_bytes(4, "big")
                + min(2048, self.rest[tag]).to_bytes(4, "big")
            )
        return b"" if self.rest[tag] else self._pdu(SCSI_RESPONSE, 0x80, header)

    def _pdu(self, opcode: int, flags: int, request: bytes, data: bytes = b"", status: int = 0) -> bytes:
        if opcode != R2T:
            self._stat_sn += 1
        numbers = (self._stat_sn - 1, self._cmd_sn, self._cmd_sn + self.window - 1)
        tag = int.from_bytes(request[16:20], "big")
        header: bytes = ANSWER.pack(opcode, flags, status, len(data), tag, *numbers).ljust(48, b"\0")
        if opcode == DATA_OUT or not data:
            return header
        data = data + bytes(-len(data) % 4)
        digest = (crc32c(data) ^ self.digest_error).to_bytes(4, "little") if self._digests else b""
        return header + data + digest


Serve = Callable[[Peer], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    listener = socket.create_server(("127.0.0.1", 0))
    threads = []

    def begin(peer: Peer) -> str:
        def accept() -> None:
            sock = listener.accept()[0]
            with sock:
                peer.serve(sock)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        threads.append(thread)
        return f"iscsi://127.0.0.1:{listener.getsockname()[1]}/iqn.2026-11.test:peer/3"

    yield begin
    listener.close()
    for thread in threads:
        thread.join(10)


SHORT = ["--seconds", "0.05", "--disk-bytes", "65536"]


def figures(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, float]:
    assert main(arguments) == 0, capsys.readouterr().err
    return parse_generator(capsys.readouterr().out)


def test_reads_are_issued_until_the_time_is_up_and_counted(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    peer = Peer()

    found = figures(capsys, *SHORT, "--depth", "4", "--latencies", serve(peer))

    # What was in flight when the time was up is waited for, and not counted.
    assert 0 < found["requests"] <= peer.told["0x88"] <= found["requests"] + 4
    assert 0 < found["p50_us"] <= found["p99_us"] <= found["longest_us"]
    assert peer.told["logouts"] == 1


def test_no_more_is_in_flight_than_the_window_lets_through(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    assert figures(capsys, *SHORT, "--depth", "8", serve(Peer(window=1)))["requests"] > 0


@pytest.mark.parametrize("digests", [[], ["--digests"]])
def test_writes_send_all_their_data_in_order(
    serve: Serve, capsys: pytest.CaptureFixture[str], digests: list[str]
) -> None:
    peer = Peer()

    found = figures(capsys, *SHORT, *digests, "--depth", "1", "--reads", "0", "--fua", serve(peer))

    assert 0 < found["requests"] <= peer.told["0x8a"] == peer.told["FUA"]
    blocks = {peer.written[at : at + 4096] for at in range(0, len(peer.written), 4096)}
    assert len(blocks) == 1
    assert len(blocks.pop()) == 4096


def test_a_mix_has_its_share_of_reads(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    peer = Peer()

    found = figures(capsys, "--seconds", "0.3", "--disk-bytes", "65536", "--reads", "70", serve(peer))

    share = peer.told["0x88"] / (peer.told["0x88"] + peer.told["0x8a"])
    assert found["requests"] < 100 or 0.5 < share < 0.9


def test_digests_are_checked(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    assert figures(capsys, *SHORT, "--digests", serve(Peer()))["requests"] > 0
    assert main([*SHORT, "--digests", serve(Peer(digest_error=1))]) == 1
    assert "a data digest is wrong" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("peer", "options", "message"),
    [
        (Peer(status=0x18), [], "failed with status 0x18"),
        (Peer(offers_digests=False), ["--digests"], "does no data digests"),
    ],
    ids=["status", "digests refused"],
)
def test_what_makes_figures_worthless_ends_with_its_reason(
    serve: Serve, capsys: pytest.CaptureFixture[str], peer: Peer, options: list[str], message: str
) -> None:
    assert main([*SHORT, *options, serve(peer)]) == 1
    assert message in capsys.readouterr().err


def test_a_target_that_closes_is_a_failure(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    class Closes(Peer):
        def _answer(self, header: bytes, data: bytes) -> bytes:
            if self.told["0x88"] == 3:
                raise OSError
            return super()._answer(header, data)

        def serve(self, sock: socket.socket) -> None:
            try:
                super().serve(sock)
            except OSError:
                sock.shutdown(socket.SHUT_RDWR)

    assert main([*SHORT, serve(Closes())]) == 1
    assert "closed the connection" in capsys.readouterr().err


def test_pings_take_their_time(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    peer = Peer()

    found = figures(capsys, *SHORT, "--work", "ping", serve(peer))

    assert found["requests"] == peer.told["pings"] > 0
    assert found["longest_us"] >= found["p99_us"] > 0


def test_nobody_there_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

    assert main([*SHORT, f"iscsi://127.0.0.1:{port}/iqn.a/0"]) == 1
    assert "Connection refused" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["iscsi://h/iqn.a/0", "http://h:1/iqn.a/0", "iscsi://h:1/iqn.a", "iscsi://h:1/a/x"])
def test_a_url_of_another_form_is_refused(url: str) -> None:
    with pytest.raises(WireFailed, match="is not iscsi://HOST:PORT/IQN/LUN"):
        Place.of(url)


def test_a_lun_stands_where_it_belongs() -> None:
    assert Place.of("iscsi://h:3260/iqn.a/3") == Place("h", 3260, "iqn.a", 3)
    assert Place("h", 1, "iqn.a", 3).lun_field == 0x0003000000000000


def test_a_write_has_its_data_in_pdus_that_the_target_takes() -> None:
    payload = memoryview(bytes(range(256)) * 16)
    agreed = Agreed(1024, 3072, immediate_data=True, initial_r2t=False, data_digest=False)

    image = write_command(5, 0, payload, agreed)

    opcode, flags, lengths, *_ = COMMAND.unpack_from(image)
    assert (opcode, flags & 0x80, lengths) == (1, 0, 1024)
    assert image[48 : 48 + 1024] == payload[:1024]
    second = 48 + 1024
    assert len(image) == second + 2 * (48 + 1024)
    assert (image[second], image[second + 1]) == (DATA_OUT, 0)
    assert image[second + 48 + 1024 + 1] == 0x80
    assert int.from_bytes(image[second + 40 : second + 44], "big") == 1024


def test_a_write_without_leave_sends_its_command_alone() -> None:
    agreed = Agreed(1024, 4096, immediate_data=False, initial_r2t=True, data_digest=False)

    image = write_command(5, 0, memoryview(bytes(4096)), agreed)
    assert len(image) == 48
    assert image[1] & 0x80


def test_a_sequence_ends_where_it_was_asked_to() -> None:
    agreed = Agreed(1024, 4096, immediate_data=True, initial_r2t=False, data_digest=True)

    pieces = list(data_out(5, 0, 9, memoryview(bytes(4096)), 1024, 1536, agreed))
    assert [len(piece) for piece in pieces] == [48, 1024, 4, 48, 512, 4]
    assert [bytes(pieces[at][36:44]) for at in (0, 3)] == [
        b"\0\0\0\0\0\0\4\0",
        b"\0\0\0\1\0\0\x08\0",
    ]


def test_percentiles_are_values_that_were_measured() -> None:
    assert percentile([5.0], 0.99) == 5.0
    assert percentile([float(number) for number in range(100, 0, -1)], 0.99) == 99.0
    assert percentile([1.0, 2.0], 0.5) == 1.0


def test_the_generator_has_nothing_of_csvd_in_it() -> None:
    for module in (generator, wire):
        lines = Path(str(module.__file__)).read_text().splitlines()
        assert not [line for line in lines if "import" in line and "csvd" in line]
