"""A Ceph cluster in memory, behind modules that look like Ceph's `rados` and `rbd` as far as csvd uses them.

Asynchronous calls are done in a thread, as librbd's are; or, while `FakeCluster.is_held`, when the test lets them.
"""

from __future__ import annotations

import errno
import itertools
import json
import queue
import threading
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

from csvd.storage.rbd.library import Library


class _Error(Exception):
    def __init__(self, number: int, why: str = "") -> None:
        self.errno = number
        super().__init__(f"[errno {number}] {why}")


def _errors(module: str, names: Sequence[str]) -> dict[str, type[Any]]:
    base = type("Error", (_Error,), {"__module__": module})
    os_error = type("OSError", (base,), {"__module__": module})
    return {"Error": base, "OSError": os_error} | {
        name: type(name, (os_error,), {"__module__": module}) for name in names
    }


RADOS_ERRORS = _errors("rados", ["ObjectNotFound", "TimedOut", "PermissionError"])
RBD_ERRORS = _errors("rbd", ["ImageNotFound", "ImageExists", "Timeout", "ConnectionShutdown"])

LAYERING, EXCLUSIVE_LOCK, OBJECT_MAP, FAST_DIFF, JOURNALING = 1, 4, 8, 16, 64
OBJECT_BYTES = 1 << 20


class StoredImage:
    """What the cluster has of an image."""

    def __init__(self, image_id: str, size_bytes: int, features: int) -> None:
        self.id = image_id
        self.data = bytearray(size_bytes)
        self.written: set[int] = set()
        """Objects that are there."""
        self.features = features
        self.settings: dict[str, str] = {}
        self.old_format = False


class FakeCluster:
    """The cluster.

    Attributes:
        is_held: whether asynchronous calls wait for `release`.
        fail: called with the name of each call that blocks; it may raise, or wait.
    """

    def __init__(self) -> None:
        self.images: dict[str, StoredImage] = {}
        self.omaps: dict[str, dict[str, bytes]] = {}
        self.blocklist: dict[str, int] = {}
        self.is_held = False
        self.held: list[Callable[[], None]] = []
        self.open_things = 0
        self.calls: list[tuple[str, int, int]] = []
        self.fail: Callable[[str], None] = lambda name: None
        self.settings: dict[str, str] = {}
        self.pools = {"pool": 7}
        self._nonces = itertools.count(1)
        self._ids = itertools.count(1)
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def add_image(self, name: str, size_bytes: int, *, features: int = LAYERING) -> StoredImage:
        """Make an image, full of zeros."""
        image = self.images[name] = StoredImage(f"id{next(self._ids)}", size_bytes, features)
        return image

    @property
    def library(self) -> Library:
        """Its modules."""
        rados = SimpleNamespace(
            Rados=lambda **how: _Client(self, how),
            ReadOpCtx=lambda: _Operation(),
            WriteOpCtx=lambda: _Operation(),
            **RADOS_ERRORS,
        )
        rbd = SimpleNamespace(
            RBD=lambda: _Rbd(self),
            Image=lambda pool, name, read_only=False: _Image(self, pool.client, name, read_only),
            RBD_FEATURE_LAYERING=LAYERING,
            RBD_FEATURE_EXCLUSIVE_LOCK=EXCLUSIVE_LOCK,
            RBD_FEATURE_OBJECT_MAP=OBJECT_MAP,
            RBD_FEATURE_FAST_DIFF=FAST_DIFF,
            RBD_FEATURE_JOURNALING=JOURNALING,
            **RBD_ERRORS,
        )
        return Library(rados=rados, rbd=rbd)

    def release(self, count: int | None = None) -> None:
        """Do calls that were held, in order."""
        done, self.held = self.held[:count], self.held[len(self.held) if count is None else count :]
        for each in done:
            each()

    def stop(self) -> None:
        """End the thread."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def opened(self, by: int) -> None:
        """Something was opened or closed."""
        with self._lock:
            self.open_things += by

    def next_address(self) -> str:
        """Of a client."""
        return f"127.0.0.1:0/{next(self._nonces)}"

    def later(self, call: Callable[[], None]) -> None:
        """Do an asynchronous call."""
        if self.is_held:
            self.held.append(call)
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        self._queue.put(call)

    def _run(self) -> None:
        while (call := self._queue.get()) is not None:
            call()


class _Client:
    def __init__(self, cluster: FakeCluster, how: dict[str, Any]) -> None:
        cluster.fail("configure")
        self._cluster = cluster
        self.address = cluster.next_address()
        cluster.settings = how["conf"]
        cluster.opened(1)

    def connect(self) -> None:
        self._cluster.fail("connect")

    def shutdown(self) -> None:
        self._cluster.fail("shutdown")
        self._cluster.opened(-1)

    def open_ioctx(self, name: str) -> _Pool:
        if name not in self._cluster.pools:
            raise RADOS_ERRORS["ObjectNotFound"](errno.ENOENT, f"no pool {name}")
        return _Pool(self._cluster, self, self._cluster.pools[name])

    def get_addrs(self) -> str:
        return self.address

    def get_fsid(self) -> str:
        return "f51d"

    def blocklist_add(self, address: str, expire_s: int) -> None:
        self._cluster.fail("blocklist_add")
        self._cluster.blocklist[address] = expire_s

    def wait_for_latest_osdmap(self) -> None:
        self._cluster.fail("wait_for_latest_osdmap")

    def mon_command(self, command: str, _: bytes) -> tuple[int, bytes, str]:
        assert json.loads(command)["prefix"] == "osd blocklist ls"
        self._cluster.fail("osd blocklist ls")
        listed = [{"addr": address, "until": "2040-01-01"} for address in self._cluster.blocklist]
        return 0, (json.dumps(listed) + "[]").encode(), "listed"


class _Pool:
    def __init__(self, cluster: FakeCluster, client: _Client, number: int) -> None:
        self._cluster = cluster
        self.client = client
        self._number = number
        cluster.opened(1)

    def close(self) -> None:
        self._cluster.opened(-1)

    def set_namespace(self, name: str) -> None:
        assert isinstance(name, str)

    def get_pool_id(self) -> int:
        return self._number

    def get_omap_vals_by_keys(self, operation: _Operation, keys: Sequence[str]) -> tuple[list[tuple[str, bytes]], int]:
        operation.asked, operation.found = keys, []
        return operation.found, 0

    def operate_read_op(self, operation: _Operation, name: str) -> None:
        self._cluster.fail("read omap")
        if name not in self._cluster.omaps:
            raise RADOS_ERRORS["ObjectNotFound"](errno.ENOENT, name)
        omap = self._cluster.omaps[name]
        operation.found += [(key, omap[key]) for key in operation.asked if key in omap]

    def set_omap(self, operation: _Operation, keys: Sequence[str], values: Sequence[bytes]) -> None:
        operation.changes = dict(zip(keys, values, strict=True))

    def operate_write_op(self, operation: _Operation, name: str) -> None:
        self._cluster.fail("write omap")
        if self.client.address in self._cluster.blocklist:
            raise RADOS_ERRORS["OSError"](errno.ESHUTDOWN, "blocklisted")
        omap = self._cluster.omaps.setdefault(name, {})
        key, expected = operation.compared
        if omap.get(key, b"").decode() != expected:
            raise RADOS_ERRORS["OSError"](errno.ECANCELED, "compared")
        omap.update(operation.changes)


class _Operation:
    """A read or a write of an object with several steps."""

    asked: Sequence[str]
    found: list[tuple[str, bytes]]
    changes: dict[str, bytes]
    compared: tuple[str, str]

    def __enter__(self) -> _Operation:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def new(self, exclusive: int) -> None:
        assert not exclusive

    def omap_cmp(self, key: str, value: str, how: int) -> None:
        assert how == 1
        self.compared = (key, value)


class _Rbd:
    def __init__(self, cluster: FakeCluster) -> None:
        self._cluster = cluster

    def create(self, pool: _Pool, name: str, size_bytes: int, *, old_format: bool, features: int) -> None:
        self._cluster.fail("create")
        if name in self._cluster.images:
            raise RBD_ERRORS["ImageExists"](errno.EEXIST, name)
        self._cluster.add_image(name, size_bytes, features=features).old_format = old_format


class _Completion:
    def __init__(self, result: int) -> None:
        self._result = result

    def get_return_value(self) -> int:
        return self._result


class _Image:
    def __init__(self, cluster: FakeCluster, client: _Client, name: str, read_only: bool) -> None:
        cluster.fail("open")
        if name not in cluster.images:
            raise RBD_ERRORS["ImageNotFound"](errno.ENOENT, name)
        self._cluster = cluster
        self._client = client
        self._stored = cluster.images[name]
        # One that is open for reading only is not told of another size.
        self._size_bytes = len(self._stored.data) if read_only else None
        self._is_closed = False
        cluster.opened(1)

    def close(self) -> None:
        assert not self._is_closed
        self._cluster.fail("close")
        self._is_closed = True
        self._cluster.opened(-1)

    def size(self) -> int:
        self._cluster.fail("size")
        return len(self._stored.data) if self._size_bytes is None else self._size_bytes

    def resize(self, size_bytes: int) -> None:
        self._cluster.fail("resize")
        data = self._stored.data
        if size_bytes > len(data):
            data.extend(bytes(size_bytes - len(data)))
        else:
            del data[size_bytes:]

    def id(self) -> str:
        return self._stored.id

    def old_format(self) -> bool:
        return self._stored.old_format

    def features(self) -> int:
        return self._stored.features

    def stat(self) -> dict[str, int]:
        return {"obj_size": OBJECT_BYTES}

    def config_list(self) -> list[dict[str, Any]]:
        settings = {"rbd_cache": "true", "rbd_skip_partial_discard": "true"} | self._cluster.settings
        return [{"name": name, "value": value} for name, value in (settings | self._stored.settings).items()]

    def diff_iterate(
        self, offset_bytes: int, length_bytes: int, snapshot: None, found: Callable[[int, int, bool], None]
    ) -> None:
        self._cluster.fail("diff_iterate")
        end_bytes = offset_bytes + length_bytes
        for number in sorted(self._stored.written):
            begin, end = max(number * OBJECT_BYTES, offset_bytes), min((number + 1) * OBJECT_BYTES, end_bytes)
            if begin < end:
                found(begin, end - begin, True)

    def read(self, offset_bytes: int, length_bytes: int) -> bytes:
        self._cluster.fail("read")
        return bytes(self._stored.data[offset_bytes : offset_bytes + length_bytes])

    def aio_read(self, offset_bytes: int, length_bytes: int, done: Callable[..., None]) -> None:
        def read() -> None:
            data = bytes(self._stored.data[offset_bytes : offset_bytes + length_bytes])
            done(_Completion(len(data)), data)

        self._submit("read", offset_bytes, length_bytes, read, lambda error: done(error, None))

    def aio_write(self, data: bytes, offset_bytes: int, done: Callable[..., None]) -> None:
        assert isinstance(data, bytes)

        def write() -> None:
            self._put(offset_bytes, data)
            done(_Completion(0))

        self._submit("write", offset_bytes, len(data), write, done)

    def aio_discard(self, offset_bytes: int, length_bytes: int, done: Callable[..., None]) -> None:
        self._submit("discard", offset_bytes, length_bytes, lambda: self._zero(offset_bytes, length_bytes, done), done)

    def aio_write_zeroes(self, offset_bytes: int, length_bytes: int, done: Callable[..., None]) -> None:
        self._submit("zero", offset_bytes, length_bytes, lambda: self._zero(offset_bytes, length_bytes, done), done)

    def aio_flush(self, done: Callable[..., None]) -> None:
        self._submit("flush", 0, 0, lambda: done(_Completion(0)), done)

    def _submit(
        self, name: str, offset_bytes: int, length_bytes: int, do: Callable[[], None], failed: Callable[..., None]
    ) -> None:
        self._cluster.fail(f"aio_{name}")
        assert not self._is_closed
        self._cluster.calls.append((name, offset_bytes, length_bytes))

        def later() -> None:
            if self._client.address in self._cluster.blocklist and name != "flush":
                failed(_Completion(-errno.ESHUTDOWN))
            elif offset_bytes + length_bytes > len(self._stored.data):
                failed(_Completion(-errno.EINVAL))
            else:
                do()

        self._cluster.later(later)

    def _put(self, offset_bytes: int, data: bytes) -> None:
        stored = self._stored
        stored.data[offset_bytes : offset_bytes + len(data)] = data
        stored.written.update(range(offset_bytes // OBJECT_BYTES, -(-(offset_bytes + len(data)) // OBJECT_BYTES)))

    def _zero(self, offset_bytes: int, length_bytes: int, done: Callable[..., None]) -> None:
        self._stored.data[offset_bytes : offset_bytes + length_bytes] = bytes(length_bytes)
        end_bytes = offset_bytes + length_bytes
        self._stored.written.difference_update(range(-(-offset_bytes // OBJECT_BYTES), end_bytes // OBJECT_BYTES))
        done(_Completion(0))
