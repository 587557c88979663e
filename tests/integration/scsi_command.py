"""One SCSI command from outside: ``python -m tests.integration.scsi_command URL CDB [DATA-OUT | +DATA-IN-BYTES]``.

CDB and Data-Out are hexadecimal digits, and so is what is printed: status, sense data, Data-In. The pending unit
attention condition of the new session is taken first.
"""

from __future__ import annotations

import sys
from typing import Any

from csvd.scsi.lun import encode_lun
from initiator.cli.runtime import run
from initiator.client import login
from initiator.engine.requests import Command
from initiator.session import Session
from initiator.url import parse_url

REQUEST_SENSE = bytes.fromhex("03 00 00 00 12 00")


async def command(session: Session, lun: int, cdb: bytes, data_out: bytes, data_in_bytes: int) -> Command:
    """Send one command, give it with its answer."""
    buffer = bytearray(data_in_bytes) if data_in_bytes else None
    request = Command(encode_lun(lun), cdb.ljust(16, b"\0"), data_in=buffer, data_out=data_out or None)
    return await session.submit(request)


async def main(reactor: Any, url: str, cdb: bytes, data_out: bytes, data_in_bytes: int) -> None:
    """Log in, take the unit attentions, send the command, print its answer, log out."""
    place = parse_url(url)
    session = await login(place, reactor=reactor)
    try:
        await command(session, place.lun, REQUEST_SENSE, b"", 18)
        done = await command(session, place.lun, cdb, data_out, data_in_bytes)
        data = bytes(done.data_in[: done.received]) if done.data_in is not None else b""
        sys.stdout.write(f"{done.status:02x} {bytes(done.sense).hex() or '-'} {data.hex() or '-'}\n")
    finally:
        await session.close()


if __name__ == "__main__":
    last = sys.argv[3] if len(sys.argv) > 3 else ""
    data_in_bytes = int(last[1:]) if last.startswith("+") else 0
    data_out = b"" if last.startswith("+") else bytes.fromhex(last)
    run(lambda reactor: main(reactor, sys.argv[1], bytes.fromhex(sys.argv[2]), data_out, data_in_bytes))
