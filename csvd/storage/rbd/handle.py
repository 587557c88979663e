"""One open image: a client of the cluster of its own, and the image in it. Everything here blocks: see `blocking`.

Every disk has its own client, for a client is what the cluster can fence: it has one address, on every object storage
daemon the same, and other disks and other processes of the host have others.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import math
from dataclasses import dataclass, field
from typing import Any

from csvd.errors import ConfigError, CsvdError
from csvd.storage.disk import StorageError
from csvd.storage.kind import check_size
from csvd.storage.rbd.blocking import CAPS, errno_of, storage_error
from csvd.storage.rbd.calls import OP_TIMEOUT_PART
from csvd.storage.rbd.library import Library
from csvd.storage.rbd.url import RbdName


@dataclass(slots=True)
class RbdHandle:
    """An image that is open.

    Args:
        cluster, pool: of rados: the client, and its context of the pool.
        image: of rbd.
        address: the client's, as the cluster has it on its blocklist.
        pool_id, image_id, fsid: which image it is, whatever it is called.
        has_cache: a setting of the image or its pool has librbd keep writes back.
        discards_all: whether a discard leaves zeros in the whole of its range, however small.
        object_bytes: what the image is cut into.
        retired: images that another one has taken the place of; calls of them may be under way.
    """

    library: Library
    name: RbdName
    read_only: bool
    cluster: Any
    pool: Any
    image: Any
    address: str
    fsid: str
    pool_id: int
    image_id: str
    has_cache: bool
    discards_all: bool
    object_bytes: int
    retired: list[Any] = field(default_factory=list)

    @property
    def identity(self) -> str:
        """32 hexadecimal digits that stand for the image, the same on every node; its name may change."""
        place = f"{self.fsid}/{self.pool_id}/{self.name.namespace}/{self.image_id}"
        return hashlib.sha256(place.encode()).hexdigest()[:32]

    def size_bytes(self) -> int:
        """The size it has by now.

        An image that is open for writing is told of changes by its watch. One that is not has none, and keeps the size
        that it was opened with: another one takes its place.
        """
        size_bytes = int(self.image.size())
        if not self.read_only:
            return size_bytes
        image = open_image(self.library, self.pool, self.name, read_only=True)
        if image.size() == size_bytes:
            image.close()
            return size_bytes
        self.retired.append(self.image)
        self.image = image
        return int(image.size())

    def close(self) -> None:
        """Let go of the image and the client. No other call may be under way in a thread."""
        try:
            for image in (*self.retired, self.image):
                image.close()
        finally:
            self.pool.close()
            self.cluster.shutdown()


def open_handle(
    library: Library, name: RbdName, *, read_only: bool, create_bytes: int | None, block_bytes: int
) -> RbdHandle:
    """Open an image; make it, where there is none and `create_bytes` says how large.

    Raises:
        ConfigError: it is not there, not permitted, of a kind that can not be served, or the cluster's configuration is
            not usable.
        StorageError: the cluster can not be reached, or failed.
    """
    with contextlib.ExitStack() as undo:
        cluster = _connect(library, name)
        undo.callback(cluster.shutdown)
        pool = _pool(library, cluster, name)
        undo.callback(pool.close)
        if create_bytes is not None:
            check_size(name.url, create_bytes, block_bytes)
            _create(library, pool, name, create_bytes)
        image = open_image(library, pool, name, read_only=read_only)
        undo.callback(image.close)
        _check_kind(library, image, name, read_only=read_only)
        check_size(name.url, image.size(), block_bytes)
        handle = _handle(library, name, cluster, pool, image, read_only=read_only)
        undo.pop_all()
        return handle


def open_image(library: Library, pool: Any, name: RbdName, *, read_only: bool) -> Any:
    """The image alone.

    Raises:
        ConfigError, StorageError: as `open_handle`.
    """
    try:
        return library.rbd.Image(pool, name.image, read_only=read_only)
    except library.rbd.ImageNotFound as error:
        hint = "create it with --create SIZE, or with: rbd create --image-feature layering"
        raise ConfigError("no such image", where=name.url, hint=hint) from error
    except library.rbd.Error as error:
        raise _opening_error(name, error, "the image can not be opened") from error


def _connect(library: Library, name: RbdName) -> Any:
    rados = library.rados
    cluster = None
    try:
        cluster = rados.Rados(rados_id=name.user, conffile=name.conf, conf=_settings(name))
        cluster.connect()
    except rados.ObjectNotFound as error:
        if cluster is not None:
            cluster.shutdown()
            hint = f"a key for client.{name.user} is wanted: see the options id and keyring"
            raise ConfigError("can not connect to the cluster", where=name.url, why=str(error), hint=hint) from error
        hint = "install the cluster's ceph.conf, or name it: rbd:pool/image:conf=/etc/ceph/ceph.conf"
        where = name.conf or "/etc/ceph/ceph.conf"
        raise ConfigError("can not read Ceph's configuration", where=where, why=str(error), hint=hint) from error
    except rados.Error as error:
        if cluster is not None:
            cluster.shutdown()
        raise _opening_error(name, error, "can not connect to the cluster") from error
    return cluster


def _settings(name: RbdName) -> dict[str, str]:
    """What the client is told beside its configuration file."""
    # Whole seconds are what Ceph takes here.
    op_timeout_s = str(max(1, math.floor(name.deadline_s * OP_TIMEOUT_PART)))
    settings = {
        # A write is answered when all replicas have it.
        "rbd_cache": "false",
        # A discard leaves zeros in its whole range: UNMAP promises that.
        "rbd_skip_partial_discard": "false",
        "rados_osd_op_timeout": op_timeout_s,
        "rados_mon_op_timeout": op_timeout_s,
        "client_mount_timeout": str(math.ceil(name.deadline_s)),
        # What goes wrong comes as an exception; stderr is csvd's.
        "log_to_stderr": "false",
        "err_to_stderr": "false",
    }
    if name.keyring:
        settings["keyring"] = name.keyring
    if name.key:
        settings["key"] = name.key
    return name.settings | settings


def _pool(library: Library, cluster: Any, name: RbdName) -> Any:
    try:
        pool = cluster.open_ioctx(name.pool)
    except library.rados.ObjectNotFound as error:
        raise ConfigError(f"the cluster has no pool {name.pool}", where=name.url) from error
    except library.rados.Error as error:
        raise _opening_error(name, error, "the pool can not be opened") from error
    pool.set_namespace(name.namespace)
    return pool


def _create(library: Library, pool: Any, name: RbdName, size_bytes: int) -> None:
    """Make an image without an exclusive lock, unless there is one of the name."""
    rbd = library.rbd
    try:
        rbd.RBD().create(pool, name.image, size_bytes, old_format=False, features=rbd.RBD_FEATURE_LAYERING)
    except rbd.ImageExists:
        return
    except rbd.Error as error:
        raise _opening_error(name, error, "the image can not be created") from error


def _check_kind(library: Library, image: Any, name: RbdName, *, read_only: bool) -> None:
    """Refuse an image that librbd locks by itself.

    Its lock goes to whoever writes: two nodes that write take it from one another at every turn, and librbd puts one
    that does not let go in time onto the blocklist, which is the cluster's to decide here. Reading takes no lock.
    """
    rbd = library.rbd
    if image.old_format():
        hint = "copy it into one of format 2: rbd cp, or qemu-img convert"
        raise ConfigError("an image of format 1 can not be served", where=name.url, hint=hint)
    features = image.features()
    if read_only or not features & rbd.RBD_FEATURE_EXCLUSIVE_LOCK:
        return
    # Each of them needs those that follow.
    names = (
        ("journaling", rbd.RBD_FEATURE_JOURNALING),
        ("fast-diff", rbd.RBD_FEATURE_FAST_DIFF),
        ("object-map", rbd.RBD_FEATURE_OBJECT_MAP),
        ("exclusive-lock", rbd.RBD_FEATURE_EXCLUSIVE_LOCK),
    )
    enabled = " ".join(feature for feature, bit in names if features & bit)
    spec = "/".join(part for part in (name.pool, name.namespace, name.image) if part)
    raise ConfigError(
        "the image has an exclusive lock, which one client at a time can have",
        where=name.url,
        hint=f"take it away: rbd feature disable {spec} {enabled}; or serve it read-only",
    )


def _handle(library: Library, name: RbdName, cluster: Any, pool: Any, image: Any, *, read_only: bool) -> RbdHandle:
    try:
        # Settings of the image and of its pool come before those of the client.
        settings = {item["name"]: item["value"] for item in image.config_list()}
        return RbdHandle(
            library=library,
            name=name,
            read_only=read_only,
            cluster=cluster,
            pool=pool,
            image=image,
            address=cluster.get_addrs(),
            fsid=cluster.get_fsid(),
            pool_id=pool.get_pool_id(),
            image_id=image.id(),
            has_cache=settings.get("rbd_cache") != "false",
            discards_all=settings.get("rbd_skip_partial_discard") == "false",
            object_bytes=image.stat()["obj_size"],
        )
    except (library.rbd.Error, library.rados.Error) as error:
        raise _opening_error(name, error, "the image can not be opened") from error


def _opening_error(name: RbdName, error: Exception, what: str) -> CsvdError:
    number = errno_of(error)
    if number in (errno.EPERM, errno.EACCES):
        return ConfigError(what, where=name.url, why=f"client.{name.user} may not", hint=CAPS)
    if number in (errno.ENOENT, errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EOPNOTSUPP):
        return ConfigError(what, where=name.url, why=str(error))
    if number == errno.ETIMEDOUT:
        why = f"{what}: the cluster did not answer within {name.deadline_s:g} s"
        return StorageError("open", number, where=name.url, why=why)
    return storage_error("open", number, where=name.url, why=f"{what}: {error}")
