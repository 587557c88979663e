"""`python -m tests.fuzz.capture`: make the seed corpus anew, from what real initiators send to `csvd serve`.

A proxy stands between; it writes down what each connection of the initiator's side sends, up to `MOST_BYTES`, behind
the mode byte that the fuzzer's input begins with. A stream that one already there is the beginning of replaces it.
"""

from __future__ import annotations

import socket
import sys
import tempfile
import threading
from pathlib import Path

from tests.bench.targets import IQN, Export, Target, start_csvd
from tests.fuzz.__main__ import CORPUS
from tests.interop.guest.kit import kit
from tests.interop.guest.machine import Guest
from tests.interop.guest.open_iscsi import Node, OpenIscsi
from tests.interop.programs import run

MOST_BYTES = 24 << 10
FAMILIES = (
    "CompareAndWrite",
    "ExtendedCopy",
    "GetLBAStatus",
    "Inquiry",
    "ModeSense6",
    "OrWrite",
    "PreventAllow",
    "ProutReserve",
    "ReceiveCopyResults",
    "ReportSupportedOpcodes",
    "Sanitize",
    "StartStopUnit",
    "Unmap",
    "Verify16",
    "WriteAtomic16",
    "WriteSame16",
    "iSCSIcmdsn",
    "iSCSIdatasn",
    "iSCSIResiduals",
    "iSCSITMF",
)


class Recorder:
    """A TCP proxy that keeps the first bytes of each connection's client."""

    def __init__(self, portal: str) -> None:
        host, _, port = portal.rpartition(":")
        self._portal = (host, int(port))
        self._server = socket.create_server(("127.0.0.1", 0))
        self.portal = f"127.0.0.1:{self._server.getsockname()[1]}"
        self.streams: list[bytearray] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self._server.accept()
            target = socket.create_connection(self._portal)
            stream = bytearray()
            self.streams.append(stream)
            threading.Thread(target=_pump, args=(client, target, stream), daemon=True).start()
            threading.Thread(target=_pump, args=(target, client, None), daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket, kept: bytearray | None) -> None:
    try:
        while data := source.recv(1 << 16):
            if kept is not None and len(kept) < MOST_BYTES:
                kept += data[: MOST_BYTES - len(kept)]
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        source.close()
        sink.close()


def keep(name: str, streams: list[bytearray]) -> None:
    """Write the streams into the corpus, each once."""
    for number, stream in enumerate({bytes(stream): None for stream in streams if len(stream) > 48}):
        (CORPUS / f"{name}-{number}.bin").write_bytes(b"\0" + stream)


def capture_open_iscsi(target: Target) -> None:
    """The Linux kernel's initiator in the guest of the interop tests: ext4 and sg3_utils, without and with digests."""
    script = """
        mkfs.ext4 -q {0}; mkdir -p /mnt/disk; mount {0} /mnt/disk; echo something > /mnt/disk/file; sync
        fstrim /mnt/disk; umount /mnt/disk; sg_inq {0}; sg_vpd -p bl {0}; sg_readcap -16 {0}; sg_opcodes {0}
        sg_persist -k {0}; sg_luns {0}; sg_reset -d {0}; sg_turs {0}
    """
    guest = Guest(kit())
    try:
        for name, digest in (("open-iscsi", "None"), ("open-iscsi-digests", "CRC32C")):
            recorder = Recorder(target.portal)
            settings = {f"node.conn[0].iscsi.{kind}Digest": digest for kind in ("Header", "Data")}
            node = Node(IQN, recorder.portal, settings)
            initiator = OpenIscsi(guest)
            guest.run(script.format(initiator.login(node)), 120)
            initiator.logout(node)
            keep(name, recorder.streams)
    finally:
        guest.end()


def main() -> int:
    CORPUS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="csvd-capture-") as folder:
        scratch = Path(folder)
        with start_csvd(Export((scratch / "disk.img",), create="64M"), scratch) as target:
            recorder = Recorder(target.portal)
            url = f"iscsi://{recorder.portal}/{IQN}/0"
            image = scratch / "small.img"
            image.write_bytes(bytes(range(256)) * 4096)
            commands: dict[str, tuple[str, ...]] = {
                "libiscsi-ls": ("iscsi-ls", "-s", f"iscsi://{recorder.portal}"),
                "libiscsi-inq": ("iscsi-inq", "-e", "1", "-c", "131", url),
                "qemu-img-info": ("qemu-img", "info", url),
                "qemu-img-convert": ("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", str(image), url),
                "qemu-img-map": ("qemu-img", "map", "--output=json", "-f", "raw", url),
                "csv-initiator-info": (str(Path(sys.executable).with_name("csv-initiator")), "info", url),
            }
            for family in FAMILIES:
                commands[f"libiscsi-{family}"] = ("iscsi-test-cu", "-d", "-S", "-t", f"ALL.{family}", url, url)
            for name, command in commands.items():
                before = len(recorder.streams)
                run(*command, timeout_s=120)
                keep(name, recorder.streams[before:])
            capture_open_iscsi(target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
