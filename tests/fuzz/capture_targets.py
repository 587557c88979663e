"""`python -m tests.fuzz.capture_targets`: make the initiator's seed corpus anew, from what real targets say to it.

csvd, tgtd and LIO each answer the requests of `initiator_room`, after a plain login, with digests, and with CHAP.
"""

from __future__ import annotations

import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from csvd.iscsi.codes import Opcode
from tests.bench.targets import TARGETS, Chap, Export
from tests.fuzz.__main__ import INITIATOR_CORPUS
from tests.fuzz.initiator_room import CHAP, DIGESTS, LOGGED_IN, THEM, US, InitiatorRoom, first_pdu
from tests.interop.guest.kit import kit
from tests.interop.guest.lio import Lio
from tests.interop.guest.machine import Guest

QUIET_S = 2.0
PROOFS = Chap(US.user, US.secret.decode(), THEM.user, THEM.secret.decode())
MODES = {"plain": 0, "digests": DIGESTS, "chap": CHAP}


def capture(name: str, portal: str, mode: int, lun: int) -> None:
    """Log in, ask, and keep all that the target says; also what it says after the login alone."""
    room = InitiatorRoom(mode, lun)
    room.asks_for_text = not name.startswith("tgtd")  # it hangs up at a text in full-feature phase
    host, _, port = portal.rpartition(":")
    stream = b""
    with socket.create_connection((host, int(port)), timeout=QUIET_S) as sock:
        sock.sendall(b"".join(room.connections[0].data_to_send()))
        engine = room.connections[0]
        while piece := _heard(sock):
            stream += piece
            events = engine.feed(piece)
            assert engine.failed is None, engine.failed
            if any(type(event).__name__ == "LoggedIn" for event in events):
                room._send(engine)
            while batch := engine.data_to_send():
                sock.sendall(b"".join(batch))
    assert engine.logged_in
    (INITIATOR_CORPUS / f"{name}.bin").write_bytes(bytes((mode,)) + stream)
    if mode == 0 and not name.startswith("tgtd"):  # whose parameters are not those of the canned login
        while stream[0] & 0x3F == Opcode.LOGIN_RESPONSE:
            _, stream = first_pdu(stream)
        (INITIATOR_CORPUS / f"{name}-after-login.bin").write_bytes(bytes((LOGGED_IN,)) + stream)


def _heard(sock: socket.socket) -> bytes:
    try:
        return sock.recv(1 << 16)
    except TimeoutError:
        return b""


def main() -> int:
    INITIATOR_CORPUS.mkdir(exist_ok=True)
    for kind, mode in MODES.items():
        how: dict[str, Any] = {"chap": PROOFS if mode & CHAP else None, "digests": bool(mode & DIGESTS)}
        for name, lun in (("csvd", 0), ("tgtd", 1)):
            with tempfile.TemporaryDirectory(prefix="csvd-capture-") as folder:
                scratch = Path(folder)
                start: Callable[..., Any] = TARGETS[name]
                with start(Export((scratch / "disk.img",), create="64M", **how), scratch) as target:
                    capture(f"{name}-{kind}", target.portal, mode, lun)
    guest = Guest(kit())
    try:
        for kind, mode in MODES.items():
            lio = Lio(guest, Export((), create="64M", chap=PROOFS if mode & CHAP else None))
            capture(f"lio-{kind}", lio.portal, mode, 0)
            lio.kill()
    finally:
        guest.end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
