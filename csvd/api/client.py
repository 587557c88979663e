"""The client of the control API: what the command line and the demo ask a daemon with. No Twisted in it."""

from __future__ import annotations

import errno
import http.client
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

import msgspec

from csvd.errors import CsvdError

MAX_ANSWER_BYTES: Final = 64 << 20
DEFAULT_TIMEOUT_S: Final = 30.0
VERIFY_TIMEOUT_S: Final = 600.0
ROTATE_TIMEOUT_S: Final = 90.0
"""Of the key of secrets: every node has to take it, and one that was evicted has to be gone."""
FENCE_TIMEOUT_S: Final = 600.0
"""A proof of each disk is waited for, one after the other."""
CHANGE_TIMEOUT_S: Final = 600.0
"""To allocate all blocks of a large file takes its time."""

Json = dict[str, Any]


class ClientError(CsvdError):
    """A daemon was asked, and did not do it.

    Attributes:
        kind: the name of the error at the daemon; empty where there was no answer.
        status: the HTTP status; 0 where there was no answer.
    """

    def __init__(
        self, what: str, *, where: str = "", why: str = "", hint: str = "", kind: str = "", status: int = 0
    ) -> None:
        super().__init__(what, where=where, why=why, hint=hint)
        self.kind = kind
        self.status = status


class NoDaemon(ClientError):
    """Nobody answers at the socket, or it may not be used."""


class NoAnswer(ClientError):
    """The daemon was asked and did not answer in time, or what it answered is not an answer: the outcome is unknown."""


class AnswerBad(ClientError):
    """400: what was asked is wrong."""


class AnswerNotFound(ClientError):
    """404: there is no such thing."""


class AnswerRefused(ClientError):
    """409: as things are, no."""


class AnswerUnavailable(ClientError):
    """503: not now, or nobody can tell whether it was done."""


class AnswerFault(ClientError):
    """500: the daemon met a fault of its own."""


_BY_STATUS: Final[Mapping[int, type[ClientError]]] = {
    400: AnswerBad,
    404: AnswerNotFound,
    405: AnswerBad,
    409: AnswerRefused,
    413: AnswerBad,
    503: AnswerUnavailable,
}


class _UnixConnection(http.client.HTTPConnection):
    """HTTP on a Unix socket."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(self.timeout)
            sock.connect(self._path)
        except BaseException:
            sock.close()
            raise
        self.sock = sock


class ControlClient:
    """Asks one daemon; each call is a connection of its own.

    Args:
        socket_path: the daemon's control socket.
        timeout_s: how long one answer may take.

    Every method raises a ClientError of the kind that fits.
    """

    def __init__(self, socket_path: str | os.PathLike[str], *, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        self.socket_path = Path(socket_path)
        self._timeout_s = timeout_s

    def status(self, *, detail: bool = False) -> Json:
        """The node, and the cluster as it sees it; ``detail``: with what the other nodes say of themselves."""
        return self.request("GET", "/v1/status", query={"detail": "members"} if detail else None)

    def routes(self) -> list[Json]:
        """What can be asked."""
        return list(self.request("GET", "/v1")["routes"])

    def sessions(self, *, of_all_nodes: bool = False) -> list[Json]:
        """The iSCSI sessions of the node, or of all that answer."""
        return list(self.request("GET", "/v1/sessions", query={"nodes": "all"} if of_all_nodes else None)["sessions"])

    def drop_session(self, target: str, tsih: int, *, grace_s: int = 0, node: str | None = None) -> Json:
        """End a session of the node, or of another; with ``grace_s`` its initiator is asked to log out first."""
        query = {"grace_s": str(grace_s)} if grace_s else {}
        if node is not None:
            query["node"] = node
        return self.request("DELETE", _target(target, "sessions", str(tsih)), query=query or None)

    def statistics(self) -> Json:
        """What the commands came to, by logical unit, command and session."""
        return self.request("GET", "/v1/statistics")

    def configuration(self) -> Json:
        """The configuration in force, and where it is from."""
        return self.request("GET", "/v1/config")

    def portals(self) -> list[Json]:
        """Where the node listens."""
        return list(self.request("GET", "/v1/portals")["portals"])

    def targets(self) -> list[Json]:
        """The targets of the node."""
        return list(self.request("GET", "/v1/targets")["targets"])

    def target(self, name: str) -> Json:
        """One target, with its logical units and its access list."""
        return self.request("GET", _target(name))

    def create_target(self, name: str, keys: Mapping[str, Any], *, scope: str = "") -> Json:
        """Serve another target: ``node`` at this one alone, ``cluster`` at all nodes."""
        query = {"scope": scope} if scope else None
        body = {"name": name, "keys": dict(keys)}
        return self.request("POST", "/v1/targets", query=query, body=body, timeout_s=CHANGE_TIMEOUT_S)

    def set_target(self, name: str, keys: Mapping[str, Any]) -> Json:
        """Change keys of a target; None is the default."""
        return self.request("PATCH", _target(name), body={"keys": dict(keys)}, timeout_s=CHANGE_TIMEOUT_S)

    def remove_target(self, name: str, *, force: bool = False) -> Json:
        """Serve a target no more."""
        query = {"force": "true"} if force else None
        return self.request("DELETE", _target(name), query=query, timeout_s=CHANGE_TIMEOUT_S)

    def luns(self, target: str | None = None) -> list[Json]:
        """The logical units of a target, or of all."""
        path = "/v1/luns" if target is None else _target(target, "luns")
        return list(self.request("GET", path)["luns"])

    def lun(self, target: str, number: int) -> Json:
        """One logical unit."""
        return self.request("GET", _target(target, "luns", str(number)))

    def add_lun(self, target: str, keys: Mapping[str, Any]) -> Json:
        """Serve another logical unit."""
        return self.request("POST", _target(target, "luns"), body={"keys": dict(keys)}, timeout_s=CHANGE_TIMEOUT_S)

    def set_lun(self, target: str, number: int, keys: Mapping[str, Any]) -> Json:
        """Change keys of a logical unit; None is the default."""
        path = _target(target, "luns", str(number))
        return self.request("PATCH", path, body={"keys": dict(keys)}, timeout_s=CHANGE_TIMEOUT_S)

    def remove_lun(self, target: str, number: int) -> Json:
        """Serve a logical unit no more."""
        return self.request("DELETE", _target(target, "luns", str(number)), timeout_s=CHANGE_TIMEOUT_S)

    def resize_lun(self, target: str, number: int, size_bytes: int | None, *, force: bool = False) -> Json:
        """Give a logical unit another size; None takes the one that its disk was given by others."""
        body: Json = {"force": force}
        if size_bytes is not None:
            body["size_bytes"] = size_bytes
        path = _target(target, "luns", str(number), "resize")
        return self.request("POST", path, body=body, timeout_s=CHANGE_TIMEOUT_S)

    def acl(self, target: str) -> list[Json]:
        """The access list of a target."""
        return list(self.request("GET", _target(target, "acl"))["acl"])

    def add_acl(self, target: str, initiator: str, keys: Mapping[str, Any]) -> Json:
        """Let an initiator log in."""
        body = {"name": initiator, "keys": dict(keys)}
        return self.request("POST", _target(target, "acl"), body=body, timeout_s=CHANGE_TIMEOUT_S)

    def set_acl(self, target: str, initiator: str, keys: Mapping[str, Any]) -> Json:
        """Change what holds for an initiator; None is the default."""
        path = _target(target, "acl", initiator)
        return self.request("PATCH", path, body={"keys": dict(keys)}, timeout_s=CHANGE_TIMEOUT_S)

    def remove_acl(self, target: str, initiator: str) -> Json:
        """Let an initiator log in no more."""
        return self.request("DELETE", _target(target, "acl", initiator), timeout_s=CHANGE_TIMEOUT_S)

    def events(self, after: int = 0) -> Json:
        """The events after a number; see csvd.api.events.EventRing.after."""
        return self.request("GET", "/v1/events", query={"after": str(after)})

    def guests(self) -> list[Json]:
        """All guests of the cluster."""
        return list(self.request("GET", "/v1/guests")["guests"])

    def guest(self, name: str) -> Json:
        """One guest, with what its owner knows of it."""
        return self.request("GET", _guest(name))

    def nodes(self) -> list[Json]:
        """The nodes of the cluster."""
        return list(self.request("GET", "/v1/nodes")["nodes"])

    def node(self, node: str) -> Json:
        """One node of the cluster, by its id or its name."""
        return self.request("GET", _node(node))

    def set_node(self, node: str, changes: Mapping[str, Any]) -> Json:
        """Change a node: `name`, `is_draining`."""
        return self.request("PATCH", _node(node), body=dict(changes))

    def evict_node(self, node: str, *, force: bool = False) -> Json:
        """Take a node out of the cluster for good; the secrets are sealed with a new key then, as `rotate_key` does."""
        query = {"force": "true"} if force else None
        return self.request("DELETE", _node(node), query=query, timeout_s=ROTATE_TIMEOUT_S)

    def rotate_key(self) -> Json:
        """Have the secrets of the cluster sealed with a new key."""
        return self.request("POST", "/v1/key", timeout_s=ROTATE_TIMEOUT_S)

    def tokens(self) -> list[Json]:
        """The join tokens that can be used now, without their secrets."""
        return list(self.request("GET", "/v1/tokens")["tokens"])

    def create_token(self, *, life_s: int | None = None, is_witness: bool = False) -> Json:
        """Make a join token; the answer has its secret text."""
        body: Json = {"is_witness": is_witness}
        if life_s is not None:
            body["life_s"] = life_s
        return self.request("POST", "/v1/tokens", body=body)

    def revoke_token(self, token: str) -> Json:
        """Revoke a join token, by its id or how that begins."""
        return self.request("DELETE", _path("tokens", token))

    def create_guest(self, name: str, spec: Mapping[str, Any], *, node: str | None = None) -> Json:
        """Make a guest and start it, on ``node`` or on the node that is asked."""
        body: Json = {"name": name, "spec": dict(spec)}
        if node is not None:
            body["node"] = node
        return self.request("POST", "/v1/guests", body=body)

    def remove_guest(self, name: str) -> Json:
        """Remove a stopped guest, and delete its image."""
        return self.request("DELETE", _guest(name))

    def start_guest(self, name: str) -> Json:
        """Run a stopped guest."""
        return self.request("POST", _guest(name, "start"))

    def stop_guest(self, name: str) -> Json:
        """End a guest's process; its image stays."""
        return self.request("POST", _guest(name, "stop"))

    def pause_guest(self, name: str) -> Json:
        """Have a guest execute nothing until it is resumed."""
        return self.request("POST", _guest(name, "pause"))

    def resume_guest(self, name: str) -> Json:
        """Let a paused guest execute again."""
        return self.request("POST", _guest(name, "resume"))

    def verify_guest(self, name: str) -> Json:
        """Have a guest check every page of its memory."""
        return self.request("GET", _guest(name, "verify"), timeout_s=VERIFY_TIMEOUT_S)

    def migrate(self, name: str, to: str) -> Json:
        """Begin to move a guest to another node; gives the progress at its begin."""
        return self.request("POST", _guest(name, "migrations"), body={"to": to})

    def migration(self, name: str) -> Json:
        """The progress of a guest's latest migration, with its report once it is over."""
        return self.request("GET", _guest(name, "migration"))

    def cancel_migration(self, name: str) -> Json:
        """Call a guest's migration off."""
        return self.request("DELETE", _guest(name, "migration"))

    def disks(self) -> list[Json]:
        """The shared disks of the cluster, as the node sees them."""
        return list(self.request("GET", "/v1/disks")["disks"])

    def disk(self, name: str) -> Json:
        """One shared disk."""
        return self.request("GET", _disk(name))

    def add_disk(self, name: str, url: str, *, create_bytes: int | None, adopt: bool, force: bool) -> Json:
        """Share another disk."""
        body: Json = {"name": name, "url": url, "adopt": adopt, "force": force}
        if create_bytes is not None:
            body["create_bytes"] = create_bytes
        return self.request("POST", "/v1/disks", body=body, timeout_s=CHANGE_TIMEOUT_S)

    def remove_disk(self, name: str) -> Json:
        """Share a disk no more."""
        return self.request("DELETE", _disk(name))

    def move_coordinator(self, disk: str, node: str) -> Json:
        """Have another node coordinate a disk."""
        return self.request("POST", _disk(disk, "coordinator"), body={"node": node})

    def fence(self, node: str, *, force: bool, is_powered_off: bool) -> Json:
        """Keep a node off all shared disks."""
        body = {"force": force, "is_powered_off": is_powered_off}
        return self.request("POST", _node(node, "fence"), body=body, timeout_s=FENCE_TIMEOUT_S)

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Json | None = None,
        timeout_s: float | None = None,
    ) -> Json:
        """Ask, and give the JSON object of the answer.

        Raises:
            ClientError: the subclass says what kind.
        """
        target = f"{path}?{urlencode(query)}" if query else path
        connection = _UnixConnection(str(self.socket_path), self._timeout_s if timeout_s is None else timeout_s)
        try:
            self._send(connection, method, target, body)
            status, data = self._receive(connection, method, path)
        finally:
            connection.close()
        return self._decode(status, data, path)

    def _send(self, connection: _UnixConnection, method: str, target: str, body: Json | None) -> None:
        data = None if body is None else msgspec.json.encode(body)
        headers = {"Content-Type": "application/json"} if data is not None else {}
        try:
            connection.connect()
        except OSError as error:
            raise self._no_daemon(error) from error
        try:
            connection.request(method, target, body=data, headers=headers)
        except OSError as error:
            raise self._no_answer(error.strerror or str(error)) from error

    def _receive(self, connection: _UnixConnection, method: str, path: str) -> tuple[int, bytes]:
        try:
            response = connection.getresponse()
            data = response.read(MAX_ANSWER_BYTES + 1)
        except TimeoutError as error:
            raise self._no_answer(f"{method} {path} took longer than {connection.timeout:g} s") from error
        except (OSError, http.client.HTTPException) as error:
            raise self._no_answer(str(error) or type(error).__name__) from error
        if len(data) > MAX_ANSWER_BYTES:
            raise self._no_answer(f"the answer has more than {MAX_ANSWER_BYTES} bytes")
        return response.status, data

    def _no_daemon(self, error: OSError) -> NoDaemon:
        hint = "choose one with --socket or CSVD_SOCKET"
        if error.errno in (errno.ENOENT, errno.ECONNREFUSED):
            hint = f"start one with csvd run, or {hint}"
        elif error.errno == errno.EACCES:
            hint = "only the daemon's user may, and its group where control.mode says so"
        why = error.strerror or str(error)
        return NoDaemon("no daemon answers", where=str(self.socket_path), why=why, hint=hint)

    def _no_answer(self, why: str) -> NoAnswer:
        return NoAnswer("the daemon did not answer, so the outcome is not known", where=str(self.socket_path), why=why)

    def _decode(self, status: int, data: bytes, path: str) -> Json:
        try:
            answer = msgspec.json.decode(data)
        except (msgspec.DecodeError, RecursionError) as error:
            raise self._no_answer(f"status {status}, and no JSON: {error}") from error
        if not isinstance(answer, dict):
            raise self._no_answer(f"status {status}, and no JSON object")
        if status < 400:
            return answer
        told = answer.get("error")
        if not isinstance(told, dict):
            raise self._no_answer(f"status {status}, and no error")
        fields = {name: str(told.get(name, "")) for name in ("what", "where", "why", "hint", "kind")}
        raise _BY_STATUS.get(status, AnswerFault)(fields.pop("what"), **fields, status=status)


def _guest(name: str, *rest: str) -> str:
    return _path("guests", name, *rest)


def _target(name: str, *rest: str) -> str:
    return _path("targets", name, *rest)


def _node(name: str, *rest: str) -> str:
    return _path("nodes", name, *rest)


def _disk(name: str, *rest: str) -> str:
    return _path("disks", name, *rest)


def _path(*parts: str) -> str:
    return "/".join(("/v1", *(quote(part, safe="") for part in parts)))
