"""A network that turns bits over between the kernel's initiator and csvd: with digests nobody takes them for data."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.bench.targets import IQN
from tests.interop.conftest import Serve
from tests.interop.guest.open_iscsi import Node, OpenIscsi

pytestmark = pytest.mark.interop

DIGESTS = {
    "node.conn[0].iscsi.HeaderDigest": "CRC32C",
    "node.conn[0].iscsi.DataDigest": "CRC32C",
    "node.session.timeo.replacement_timeout": "60",
}
EVERY_BYTES = 6 << 20


class BadCable:
    """A TCP proxy that turns over one bit of some MiB, in one direction, as long as it is told to."""

    def __init__(self, portal: str, *, to_target: bool) -> None:
        host, _, port = portal.rpartition(":")
        self._target = (host, int(port))
        self._to_target = to_target
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.portal = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self.damages = 0
        self.damaging = True
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        self._listening.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                near, _ = self._listening.accept()
                far = socket.create_connection(self._target)
                for source, sink, is_bad in ((near, far, self._to_target), (far, near, not self._to_target)):
                    threading.Thread(target=self._carry, args=(source, sink, is_bad), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, is_bad: bool) -> None:
        carried = 0
        with contextlib.suppress(OSError):
            while piece := bytearray(source.recv(65536)):
                carried += len(piece)
                if is_bad and self.damaging and carried > EVERY_BYTES and len(piece) > 4096:
                    piece[len(piece) // 2] ^= 0x08
                    carried = 0
                    self.damages += 1
                sink.sendall(piece)
        for sock in (source, sink):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def cables() -> Iterator[list[BadCable]]:
    """Those that a test has laid; they are taken away in the end."""
    cables: list[BadCable] = []
    yield cables
    for cable in cables:
        cable.close()


@pytest.mark.parametrize("to_target", [True, False], ids=["to the target", "to the initiator"])
def test_damaged_bits_cost_time_and_nothing_else(
    serve: Serve, initiator: OpenIscsi, cables: list[BadCable], to_target: bool
) -> None:
    guest, target = initiator.guest, serve("a.img", create="64M", options=("--log-level", "info"))
    cables.append(BadCable(target.portal, to_target=to_target))
    (cable,) = cables
    device = initiator.login(Node(IQN, cable.portal, DIGESTS))

    guest.succeed(
        f"""
        dd if=/dev/urandom of=/tmp/data bs=1M count=14
        dd if=/tmp/data of={device} bs=512k oflag=direct
        dd if={device} of=/tmp/again bs=512k count=28 iflag=direct
        cmp /tmp/data /tmp/again
        """,
        150,
    )

    cable.damaging = False
    assert cable.damages >= 2
    guest.succeed(
        f"""
        dd if={device} of=/tmp/again bs=1M count=14 iflag=direct
        cmp /tmp/data /tmp/again
        rm /tmp/data /tmp/again
        """,
        60,
    )
    assert ("digest" in target.log().replace("header digest CRC32C, data digest CRC32C", "").lower()) is to_target


def test_resets_of_the_unit_and_of_the_target_in_the_middle_of_writes(serve: Serve, initiator: OpenIscsi) -> None:
    guest, target = initiator.guest, serve("a.img", create="64M", options=("--log-level", "info"))
    device = initiator.login(Node(IQN, target.portal, DIGESTS))

    guest.succeed(
        f"""
        dd if=/dev/urandom of=/tmp/data bs=1M count=8
        dd if=/tmp/data of={device} bs=64k oflag=direct &
        sleep 0.2; sg_reset -d {device}; sleep 0.2; sg_reset -t {device}; sleep 0.2; sg_reset -d {device}
        wait $!
        dd if={device} of=/tmp/again bs=1M count=8 iflag=direct
        cmp /tmp/data /tmp/again
        rm /tmp/data /tmp/again
        """,
        120,
    )

    assert "LOGICAL_UNIT_RESET, FUNCTION_COMPLETE" in target.log()
