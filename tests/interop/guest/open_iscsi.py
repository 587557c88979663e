"""open-iscsi in the guest: discovery, node records, sessions, and the disks that they bring."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.interop.guest.machine import Guest, Step

# iscsiadm(8), "EXIT STATUS".
LOGIN_FAILED_FOR_GOOD: Final = 19
LOGIN_AUTHENTICATION_FAILED: Final = 24
SETTLE_TIMEOUT_S: Final = 30


@dataclass(frozen=True, slots=True)
class Node:
    """A target at a portal, as open-iscsi keeps it in a record.

    Args:
        target: its iSCSI name.
        portal: `HOST:PORT`.
        settings: what of its record differs from iscsid.conf, by open-iscsi's names.
        interface: the record of `OpenIscsi.add_interface` that says which initiator logs in.
    """

    target: str
    portal: str
    settings: Mapping[str, str] = field(default_factory=dict)
    interface: str = "default"

    @property
    def record(self) -> str:
        """The head of an iscsiadm command about it."""
        return f"iscsiadm -m node -T {self.target} -p {self.portal} -I {self.interface}"

    def device(self, lun: int = 0) -> str:
        """The path that udev gives to the disk of a logical unit."""
        return f"/dev/disk/by-path/ip-{self.portal}-iscsi-{self.target}-lun-{lun}"


class OpenIscsi:
    """The initiator of a guest.

    Args:
        guest: where it runs.
    """

    def __init__(self, guest: Guest) -> None:
        self.guest = guest

    def add_interface(self, name: str, initiator: str) -> None:
        """Make a record by which the same machine logs in as another initiator."""
        record = f"iscsiadm -m iface -I {name}"
        self.guest.succeed(f"{record} -o new\n{record} -o update{_set('iface.initiatorname', initiator)}")

    def discover(self, portal: str, settings: Mapping[str, str] | None = None) -> Step:
        """Ask a portal for its targets, by a discovery record with these settings."""
        record = f"iscsiadm -m discoverydb -t sendtargets -p {portal}"
        updates = "".join(f"{record} -o update{_set(name, value)}\n" for name, value in (settings or {}).items())
        return self.guest.run(f"set -e\n{record} -o new >/dev/null\n{updates}{record} --discover")

    def discovered(self, portal: str, settings: Mapping[str, str] | None = None) -> Sequence[Node]:
        """The targets that a portal names.

        Raises:
            AssertionError: the discovery failed.
        """
        done = self.discover(portal, settings)
        assert done.status == 0, f"{done}\n{self.guest.console()}"
        return [Node(name, at) for at, name in re.findall(r"^(\S+),\d+ (\S+)$", done.printed, re.MULTILINE)]

    def try_login(self, node: Node, timeout_s: float = 60) -> Step:
        """Make the node's record anew, and log in by it."""
        record = node.record
        updates = "".join(f"{record} -o update{_set(name, value)}\n" for name, value in node.settings.items())
        anew = f"{record} -o delete >/dev/null 2>&1 || true\n{record} -o new >/dev/null\n"
        return self.guest.run(f"set -e\n{anew}{updates}{record} --login", timeout_s)

    def login(self, node: Node, luns: Sequence[int] = (0,)) -> str:
        """Log in, and wait for the disks of these logical units; gives the path of the first.

        Raises:
            AssertionError: the login was refused, or a disk did not come.
        """
        done = self.try_login(node)
        assert done.status == 0, f"{done}\n{self.guest.console()}"
        devices = [node.device(lun) for lun in luns]
        waits = "".join(f"until [ -b {device} ]; do sleep 0.1; done\n" for device in devices)
        self.guest.succeed(f"{waits}udevadm settle -t {SETTLE_TIMEOUT_S}", SETTLE_TIMEOUT_S + 30)
        return devices[0]

    def logout(self, node: Node) -> None:
        """Log out; the disks are gone then.

        Raises:
            AssertionError: it failed.
        """
        self.guest.succeed(f"{node.record} --logout")

    def session(self, node: Node) -> Mapping[str, str]:
        """What was negotiated, and the state of it, as `iscsiadm -m session -P 2` prints it: `HeaderDigest` and so on.

        Raises:
            AssertionError: there is no session.
        """
        printed = self.guest.succeed("iscsiadm -m session -P 2")
        found = re.search(rf"Current Portal: {re.escape(node.portal)},.*?(?=Current Portal:|\Z)", printed, re.DOTALL)
        assert found is not None, printed
        return dict(re.findall(r"^\s*([^:\n]+): *(.*?)\s*$", found[0], re.MULTILINE))

    def forget_everything(self) -> None:
        """Log out everywhere and delete all records."""
        self.guest.run(
            """
            iscsiadm -m node --logoutall=all
            iscsiadm -m node -o delete
            rm -rf /etc/iscsi/nodes/* /etc/iscsi/send_targets/* /etc/iscsi/ifaces/*
            """
        )


def chap(user: str, secret: str, *, discovery: bool = False) -> dict[str, str]:
    """The settings with which open-iscsi proves who it is; for a node's record, or a discovery's."""
    section = "discovery.sendtargets.auth" if discovery else "node.session.auth"
    return {f"{section}.authmethod": "CHAP", f"{section}.username": user, f"{section}.password": secret}


def mutual_chap(user: str, secret: str) -> dict[str, str]:
    """The settings with which open-iscsi demands that a target proves who it is; together with `chap`."""
    return {"node.session.auth.username_in": user, "node.session.auth.password_in": secret}


def _set(name: str, value: str) -> str:
    return f" -n '{name}' -v '{value}'"
