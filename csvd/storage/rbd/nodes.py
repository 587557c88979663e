"""Which client of the cluster each node is on an image, and keeping one off. Everything here blocks: see `blocking`.

The object ``csvd.nodes.IMAGE-ID``, in the pool and namespace of the image, has a key for each node in its omap, with a
JSON object: ``address`` of the node's client, ``state`` (``joined``, ``fenced`` or ``left``) and ``generation``, which
grows with each joining. It is changed by compare-and-set on the whole value, so that nobody acts on what has changed
since he read it. `rados -p POOL listomapvals csvd.nodes.IMAGE-ID` shows it.

To fence a node is to put the address of its client onto the cluster's blocklist, and to wait until the client that
fences has the map of object storage daemons with it. A daemon that gets an operation from that client from then on has
the map, too, or gets it first: the operation says which map it was made with. It has refused the fenced client's
operations since, and those before came before ours. Another client that is to rely on it calls `catch_up` first.

The blocklist forgets an address after `FENCED_FOR_S`: a process that is stopped for longer than that, and woken, would
be let in again.
"""

from __future__ import annotations

import errno
import json
import re
from dataclasses import dataclass, replace
from typing import Final

from csvd.storage.disk import StorageError
from csvd.storage.rbd.handle import RbdHandle

FENCED_FOR_S: Final = 10 * 365 * 24 * 3600
MOST_TRIES: Final = 16
"""How often a record may change under the hands of who is to change it."""

JOINED: Final = "joined"
FENCED: Final = "fenced"
LEFT: Final = "left"

_EQUAL: Final = 1
"""LIBRADOS_CMPXATTR_OP_EQ, which python3-rados has no name for."""
_ADDRESS: Final = re.compile(r"(?:v[12]:)?((?:\[[0-9A-Fa-f:.]+\]|[0-9.]+):\d+/\d+)")
_LONGEST_RECORD: Final = 4096


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """What the image knows of a node.

    Args:
        address: of the client that it writes through.
        state: JOINED, FENCED or LEFT.
        generation: how often the node has joined.
    """

    address: str
    state: str
    generation: int

    def to_json(self) -> str:
        """As it is kept."""
        return json.dumps({"address": self.address, "generation": self.generation, "state": self.state})


def parse_record(text: bytes) -> NodeRecord:
    """Read a record.

    Raises:
        ValueError: it is none.
    """
    found = json.loads(text[: _LONGEST_RECORD + 1].decode())
    match found:
        case {"address": str(address), "generation": int(generation), "state": str(state)}:
            if state in (JOINED, FENCED, LEFT) and addresses_in(address):
                return NodeRecord(address, state, generation)
    raise ValueError("it is not a node's record")


def addresses_in(text: str) -> list[str]:
    """The addresses of a client, each as the blocklist takes it: ``10.0.0.1:0/1234``; never one of a whole host."""
    return _ADDRESS.findall(text)


def blocklisted(text: str) -> set[str]:
    """The addresses in what ``osd blocklist ls`` says in JSON.

    Ceph 16 prints two values one after the other, ``[{…}][]``: those of addresses and those of networks.

    Raises:
        ValueError: it says something else.
    """
    decoder = json.JSONDecoder()
    found: set[str] = set()
    at = 0
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        entries, at = decoder.raw_decode(text, at)
        if not isinstance(entries, list):
            raise ValueError("it is not a list")
        for entry in entries:
            found.update(addresses_in(entry["addr"]))
    return found


def join(handle: RbdHandle, node: str) -> None:
    """Write down that a node writes through this client; whatever client it had before is kept off first.

    Raises:
        StorageError: this client is fenced itself, or the cluster failed.
    """
    for _ in range(MOST_TRIES):
        old = read_record(handle, node)
        if old is not None and old.address == handle.address and old.state == JOINED:
            return
        if old is not None and old.address != handle.address and old.state == JOINED:
            keep_off(handle, old.address)
        new = NodeRecord(handle.address, JOINED, old.generation + 1 if old else 1)
        if _replace(handle, node, old, new):
            return
    raise _contended(handle, "join", node)


def fence(handle: RbdHandle, node: str) -> str:
    """Keep off whatever client a node writes through. A node that never joined, or has left, has none.

    Returns:
        What was seen that proves it.

    Raises:
        StorageError: the node is this one, or the cluster failed: then it is unknown whether the node is kept off.
    """
    for _ in range(MOST_TRIES):
        old = read_record(handle, node)
        if old is None or old.state == LEFT:
            return f"{node} has no client by which it writes: it has left" if old else f"{node} never joined"
        if old.address == handle.address:
            raise StorageError("fence", errno.EINVAL, where=handle.name.url, why=f"{node} is this node")
        keep_off(handle, old.address)
        # What has joined anew meanwhile has another client.
        if old.state == FENCED or _replace(handle, node, old, replace(old, state=FENCED)):
            return f"its client {', '.join(addresses_in(old.address))} is on the blocklist of the newest map"
    raise _contended(handle, "fence", node)


def leave(handle: RbdHandle, node: str, *, has_unknown_writes: bool) -> None:
    """Write down that a node writes no more.

    With writes of unknown outcome nobody can promise that. This client then keeps itself off, and its record stays.

    Raises:
        StorageError: the cluster failed.
    """
    old = read_record(handle, node)
    if old is None or old.address != handle.address or old.state != JOINED:
        return
    if has_unknown_writes:
        keep_off(handle, handle.address)
    else:
        _replace(handle, node, old, replace(old, state=LEFT))


def keep_off(handle: RbdHandle, address: str) -> None:
    """Have the cluster refuse a client, and know of it.

    Raises:
        StorageError: it is unknown whether it does.
    """
    wanted = addresses_in(address)
    for each in wanted:
        handle.cluster.blocklist_add(each, FENCED_FOR_S)
    catch_up(handle)
    missing = set(wanted) - _blocklist(handle)
    if missing or not wanted:
        why = f"{address} is not on the cluster's blocklist"
        raise StorageError("fence", errno.EIO, where=handle.name.url, why=why)


def catch_up(handle: RbdHandle) -> None:
    """Have the newest map of the cluster, with all that was fenced until now: what this client writes from then on
    comes after the last write of those.

    Raises:
        rados.Error: the cluster failed.
    """
    handle.cluster.wait_for_latest_osdmap()


def read_record(handle: RbdHandle, node: str) -> NodeRecord | None:
    """What is written down of a node.

    Raises:
        StorageError: that is not to be understood.
        rados.Error: the cluster failed.
    """
    rados, pool = handle.library.rados, handle.pool
    try:
        with rados.ReadOpCtx() as operation:
            found, _ = pool.get_omap_vals_by_keys(operation, (node,))
            pool.operate_read_op(operation, _object_name(handle))
            values = dict(found)
    except rados.ObjectNotFound:
        return None
    if node not in values:
        return None
    try:
        return parse_record(values[node])
    except ValueError as error:
        why = f"what is kept of {node} in {_object_name(handle)} is not to be understood: {error}"
        raise StorageError("fence", errno.EBADMSG, where=handle.name.url, why=why) from error


def _replace(handle: RbdHandle, node: str, old: NodeRecord | None, new: NodeRecord) -> bool:
    """Put a record in the place of another; False when that is not there any more."""
    rados, pool = handle.library.rados, handle.pool
    try:
        with rados.WriteOpCtx() as operation:
            operation.new(0)
            operation.omap_cmp(node, old.to_json() if old else "", _EQUAL)
            pool.set_omap(operation, (node,), (new.to_json().encode(),))
            pool.operate_write_op(operation, _object_name(handle))
    except rados.OSError as error:
        if error.errno == errno.ECANCELED:
            return False
        raise
    return True


def _blocklist(handle: RbdHandle) -> set[str]:
    command = json.dumps({"prefix": "osd blocklist ls", "format": "json"})
    status, output, why = handle.cluster.mon_command(command, b"")
    if status != 0:
        raise StorageError("fence", abs(status), where=handle.name.url, why=f"osd blocklist ls: {why}")
    try:
        return blocklisted(output.decode())
    except (ValueError, KeyError, TypeError) as error:
        why = f"osd blocklist ls is not to be understood: {error}"
        raise StorageError("fence", errno.EBADMSG, where=handle.name.url, why=why) from error


def _object_name(handle: RbdHandle) -> str:
    return f"csvd.nodes.{handle.image_id}"


def _contended(handle: RbdHandle, operation: str, node: str) -> StorageError:
    why = f"what is kept of {node} changes all the time"
    return StorageError(operation, errno.EBUSY, where=handle.name.url, why=why)
