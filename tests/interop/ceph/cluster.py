"""A throw-away Ceph: one monitor and some object storage daemons on loopback, with cephx, without a manager.

It is ready in one to three seconds: the monitor's quorum of one waits for nobody, the daemons' stores are files, and
their devices are polled often. Its folder has a short name, for Ceph makes Unix sockets in it.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from csvd.storage.rbd.library import load_library
from tests.interop.programs import SEARCH_PATH

READY_WITHIN_S: Final = 60
OSD_BYTES: Final = 4 << 30
POOL: Final = "pool"

_CONF: Final = """\
[global]
fsid = {fsid}
mon_host = [v2:127.0.0.1:{port},v1:127.0.0.1:{old_port}]
mon_initial_members = a
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
auth_cluster_required = cephx
auth_service_required = cephx
auth_client_required = cephx
keyring = {folder}/admin.keyring
run_dir = {folder}
crash_dir = {folder}
admin_socket =
pid_file =
log_file =
log_to_file = false
log_to_stderr = false
err_to_stderr = true
mon_cluster_log_to_file = false
osd_pool_default_size = {copies}
osd_pool_default_min_size = {copies_to_write}
osd_pool_default_pg_num = 8
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
# A placement group serves nothing before the promises have lapsed that its daemons made before they went.
osd_pool_default_read_lease_ratio = 0.2
# How soon a client asks for a newer map when a daemon does not answer: 10 s and 5 s by default.
objecter_timeout = 1
objecter_tick_interval = 0.5
mon_allow_pool_delete = true
mon_data_avail_warn = 1
mon_data_avail_crit = 1
[mon]
keyring = {folder}/mon.keyring
mon_data = {folder}/mon
paxos_propose_interval = 0.02
paxos_min_wait = 0.01
# A daemon that is killed comes back at once, and nobody else is to be asked whether it was down.
mon_osd_min_down_reporters = 1
mon_osd_down_out_interval = 3600
[osd]
osd_data = {folder}/osd$id
keyring = {folder}/osd$id/keyring
osd_objectstore = bluestore
bluestore_block_size = {osd_bytes}
bdev_aio_poll_ms = 10
bluestore_cache_autotune = false
bluestore_cache_size = 67108864
osd_op_num_shards = 1
osd_op_num_threads_per_shard = 2
osd_heartbeat_interval = 1
osd_heartbeat_grace = 4
osd_class_load_list = *
osd_class_default_list = *
"""


class Ceph:
    """A cluster that runs. Use as a context manager: it ends its processes, by their ids, and removes its folder.

    Args:
        osds: how many object storage daemons there are; every object is on all of them.
        copies_to_write: how many have to be there for anything to be done.
    """

    def __init__(self, *, osds: int = 1, copies_to_write: int = 1) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="csvdceph", dir="/tmp"))
        self.fsid = str(uuid.uuid4())
        self._library = load_library()
        self._numbers = itertools.count(1)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._client: Any = None
        try:
            self._start(osds, copies_to_write)
        except BaseException:
            self.end()
            raise

    def __enter__(self) -> Ceph:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    @property
    def conf(self) -> Path:
        """ceph.conf."""
        return self.folder / "ceph.conf"

    def url(self, image: str, *, user: str = "csvd") -> str:
        """The URL of an image of the pool."""
        keyring = self.folder / f"{user}.keyring"
        return f"rbd:{POOL}/{image}:id={user}:conf={self.conf}:keyring={keyring}"

    def qemu_url(self, image: str) -> str:
        """The same for QEMU."""
        return f"rbd:{POOL}/{image}:id=admin:conf={self.conf}"

    def new_image(self, size_bytes: int, *, features: int = 1) -> str:
        """Make an image in the pool; its name, which is of nothing else."""
        name = f"image{next(self._numbers)}"
        with contextlib.closing(self.pool) as pool:
            self._library.rbd.RBD().create(pool, name, size_bytes, old_format=False, features=features)
        return name

    def resize_image(self, name: str, size_bytes: int) -> None:
        """Give an image another size, as another client."""
        with contextlib.closing(self.pool) as pool, self._library.rbd.Image(pool, name) as image:
            image.resize(size_bytes)

    @property
    def pool(self) -> Any:
        """The pool, as the administrator has it."""
        return self._client.open_ioctx(POOL)

    def command(self, prefix: str, **arguments: object) -> bytes:
        """A command for the monitor.

        Raises:
            AssertionError: it failed.
        """
        status, output, why = self._client.mon_command(json.dumps({"prefix": prefix, **arguments}), b"")
        assert status == 0, f"{prefix}: {status} {why}"
        return bytes(output)

    def make_user(self, name: str, mon: str, osd: str) -> Path:
        """Make a user with a keyring of mode 0600, which it returns."""
        answer = json.loads(
            self.command("auth get-or-create", entity=f"client.{name}", caps=["mon", mon, "osd", osd], format="json")
        )
        keyring = self.folder / f"{name}.keyring"
        _write_secret(keyring, f"[client.{name}]\n\tkey = {answer[0]['key']}\n")
        return keyring

    def kill_osd(self, number: int) -> None:
        """End a daemon as a power cut would."""
        process = self._processes.pop(f"osd.{number}")
        process.kill()
        process.wait()

    def start_osd(self, number: int) -> None:
        """Start a daemon of which the store is there; it is up some time later."""
        self._spawn(f"osd.{number}", "ceph-osd", "-i", str(number))

    def pause_osd(self, number: int) -> None:
        """Have a daemon take what it is sent, and do nothing."""
        os.kill(self._processes[f"osd.{number}"].pid, signal.SIGSTOP)

    def resume_osd(self, number: int) -> None:
        """Have it go on."""
        os.kill(self._processes[f"osd.{number}"].pid, signal.SIGCONT)

    def wait_for_osds(self, count: int) -> None:
        """Until so many daemons are up."""
        self._wait(lambda: json.loads(self.command("osd stat", format="json"))["num_up_osds"] == count)

    def end(self) -> None:
        """End all processes and remove the folder. A cluster that has lost its daemons ends, too."""
        if self._client is not None:
            self._client.shutdown()
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self, osds: int, copies_to_write: int) -> None:
        port, old_port = _free_ports(2)
        self.conf.write_text(
            _CONF.format(
                fsid=self.fsid,
                port=port,
                old_port=old_port,
                folder=self.folder,
                copies=osds,
                copies_to_write=copies_to_write,
                osd_bytes=OSD_BYTES,
            )
        )
        keys = self._write_keys(osds)
        monmap = str(self.folder / "monmap")
        where = f"[v2:127.0.0.1:{port},v1:127.0.0.1:{old_port}]"
        self._run("monmaptool", "--create", "--enable-all-features", "--fsid", self.fsid, "--addv", "a", where, monmap)
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", str(self.folder / "mon.keyring"))
        self._spawn("mon.a", "ceph-mon", "-i", "a")
        identities = [str(uuid.uuid4()) for _ in keys]
        stores = [self._make_store(number, identity, monmap) for number, identity in enumerate(identities)]
        rados = self._library.rados
        client = rados.Rados(rados_id="admin", conffile=str(self.conf), conf={"rados_mon_op_timeout": "30"})
        client.connect()
        self._client = client
        for number, (identity, store) in enumerate(zip(identities, stores, strict=True)):
            answer = json.loads(self.command("osd new", uuid=identity, format="json"))
            assert answer["osdid"] == number, answer
            assert store.wait(READY_WITHIN_S) == 0, self._output(f"mkfs.{number}")
            self.start_osd(number)
        self.wait_for_osds(osds)
        sure = {"yes_i_really_mean_it": True}
        self.command("osd pool create", pool=POOL, pg_num=8, size=osds, **sure)
        self.command("osd pool application enable", pool=POOL, app="rbd", **sure)
        self.make_user("csvd", "profile rbd", f"profile rbd pool={POOL}")
        with contextlib.closing(self.pool) as pool:
            # Done when the placement groups are.
            pool.write_full("ready", b"1")
            pool.remove_object("ready")

    def _write_keys(self, osds: int) -> list[str]:
        keys = [_new_key() for _ in range(osds)]
        admin = f'[client.admin]\n\tkey = {_new_key()}\n\tcaps mon = "allow *"\n\tcaps osd = "allow *"\n'
        parts = [f'[mon.]\n\tkey = {_new_key()}\n\tcaps mon = "allow *"\n', admin]
        for number, key in enumerate(keys):
            parts.append(f'[osd.{number}]\n\tkey = {key}\n\tcaps mon = "allow profile osd"\n\tcaps osd = "allow *"\n')
            store = self.folder / f"osd{number}"
            store.mkdir()
            _write_secret(store / "keyring", f"[osd.{number}]\n\tkey = {key}\n")
        _write_secret(self.folder / "mon.keyring", "".join(parts))
        _write_secret(self.folder / "admin.keyring", admin)
        return keys

    def _make_store(self, number: int, identity: str, monmap: str) -> subprocess.Popen[bytes]:
        name = f"mkfs.{number}"
        made = ("--mkfs", "-i", str(number), "--osd-uuid", identity, "--monmap", monmap, "--no-mon-config")
        return self._popen(name, "ceph-osd", *made)

    def _spawn(self, name: str, program: str, *arguments: str) -> None:
        self._processes[name] = self._popen(name, program, "-f", *arguments)

    def _popen(self, name: str, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        path = shutil.which(program, path=SEARCH_PATH)
        assert path is not None, program
        with (self.folder / f"{name}.out").open("ab") as output:
            return subprocess.Popen(
                [path, "-c", str(self.conf), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def _run(self, program: str, *arguments: str) -> None:
        assert self._popen(program, program, *arguments).wait(READY_WITHIN_S) == 0, self._output(program)

    def _output(self, name: str) -> str:
        return (self.folder / f"{name}.out").read_text(errors="replace")

    def _wait(self, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + READY_WITHIN_S
        while not is_so():
            assert time.monotonic() < deadline, "\n".join(self._output(name) for name in self._processes)
            time.sleep(0.02)


def _new_key() -> str:
    """A secret of cephx: type 1 (AES), when it was made, its length, and the key."""
    key = secrets.token_bytes(16)
    return base64.b64encode(struct.pack("<HIIH", 1, int(time.time()), 0, len(key)) + key).decode()


def _write_secret(path: Path, text: str) -> None:
    path.touch(0o600)
    path.write_text(text)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
