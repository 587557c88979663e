"""The sections and keys of the targets of a node: their portals, who may log in, their logical units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from csvd.config.sections import Key, key, table, tables
from csvd.config.values import (
    ADDRESS,
    BOOLEAN,
    NETWORK,
    PATH,
    PORTAL,
    ROTATION_RATE,
    Kind,
    choice,
    hexadecimal,
    list_of,
    matching,
    number,
    one_of_numbers,
    size,
    text,
    whole,
)
from csvd.errors import ConfigError
from csvd.iscsi.names import check_iscsi_name

DEFAULT_PORTAL: Final = "127.0.0.1:3260"
MAX_LUN: Final = 16383
ACCESS_STATES: Final = ("active-optimized", "active-non-optimized", "standby", "unavailable")
DEFAULT_QUEUE_DEPTH: Final = 64
DEFAULT_MAX_TRANSFER_BYTES: Final = 8 << 20

ISCSI_NAME: Final = text("an iSCSI name: iqn.YYYY-MM.reversed.domain[:what]", check_iscsi_name)


def _check_alias(value: str) -> str:
    if len(value.encode()) > 255:
        raise ConfigError("has more than 255 bytes")
    return value


def _letters(most: int) -> Kind:
    """A text that fits a field of INQUIRY data."""
    return matching(
        f"1 to {most} printable ASCII characters",
        lambda value: isinstance(value, str) and 1 <= len(value) <= most and value.isascii() and value.isprintable(),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ChapSection:
    """CHAP; when it is there, nobody logs in without."""

    user: Annotated[str, key(text(), "The name that initiators give.", example='"joe"')]
    secret_file: Annotated[
        Path,
        key(
            PATH,
            "The file with the secret: 12 to 255 bytes, in a file of mode 0600 that belongs to the user of the daemon "
            "or to root.",
            example='"chap.secret"',
        ),
    ]
    mutual_user: Annotated[
        str | None,
        key(
            text(),
            "The name that the target gives to an initiator that wants it to prove itself (mutual CHAP).",
            default=None,
            default_words="the target can not prove itself",
            example='"target1"',
            off=True,
        ),
    ]
    mutual_secret_file: Annotated[
        Path | None,
        key(
            PATH,
            "The file with the secret by which the target proves itself; another one than the initiators'.",
            default=None,
            default_words="none",
            example='"mutual.secret"',
            off=True,
        ),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class AclSection:
    """An initiator that may log in, with what holds for it alone."""

    initiator: Annotated[str, key(ISCSI_NAME, "Its iSCSI name.", example='"iqn.2026-11.org.example:host1"')]
    networks: Annotated[
        Sequence[str] | None,
        key(
            list_of(NETWORK),
            "The addresses from which it may log in, as networks.",
            default=None,
            default_words="those of the target",
            example='["192.0.2.7"]',
            off=True,
        ),
    ]
    portal_groups: Annotated[
        Sequence[int] | None,
        key(
            list_of(whole(1, 65535)),
            "The tags of the portal groups that it may use.",
            default=None,
            default_words="all of the target",
            example="[1]",
            off=True,
        ),
    ]
    luns: Annotated[
        Sequence[int] | None,
        key(
            list_of(whole(0, MAX_LUN), least=0),
            "The LUNs that it sees (LUN masking); for it there are no others.",
            default=None,
            default_words="all",
            example="[0]",
            off=True,
        ),
    ]
    chap: Annotated[
        ChapSection | None,
        table(ChapSection, "Its own CHAP name and secret; nobody else logs in with them.", is_optional=True, off=True),
    ]


def _access_state() -> Key:
    return key(
        choice(*ACCESS_STATES),
        "The asymmetric access state (ALUA) in which initiators find it after a start; they may set another one.",
        default=ACCESS_STATES[0],
        example=f'"{ACCESS_STATES[0]}"',
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PortalGroupSection:
    """A further portal group of a target."""

    tag: Annotated[int, key(whole(1, 65535), "Its tag; another one on every node.", example="101")]
    portals: Annotated[
        Sequence[str],
        key(list_of(PORTAL), "Where it listens. Port 0 takes a free one.", example='["127.0.0.1:3261"]'),
    ]
    access_state: Annotated[str, _access_state()]


@dataclass(frozen=True, slots=True, kw_only=True)
class RedirectSection:
    """Where the logins to a target are sent on to."""

    address: Annotated[
        str, key(ADDRESS, "The portal that serves the target, as IP address and port.", example='"192.0.2.1:3260"')
    ]
    permanent: Annotated[bool, key(BOOLEAN, "Whether initiators may remember it.", default=False, example="false")]
    portal_group_tag: Annotated[
        int | None,
        key(
            whole(1, 65535),
            "The tag of its portal group, when it is one of this node: logins there are served.",
            default=None,
            default_words="it is no portal of this node",
            example="101",
            off=True,
        ),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class LunSection:
    """A logical unit of a target."""

    number: Annotated[int, key(whole(0, MAX_LUN), "Its logical unit number.", example="0")]
    disk: Annotated[
        str,
        key(
            text("a path or a URL"),
            "The disk behind it: a file or a block device; a LUN of another target, as iscsi://[user@]host/name/0; an "
            "image of a Ceph cluster, as rbd:pool/image; or null:SIZE, as null:10G, which keeps nothing.",
            example='"shared.img"',
        ),
    ]
    disk_secret_file: Annotated[
        Path | None,
        key(
            PATH,
            "The CHAP secret of the user in the URL of an iscsi:// disk, or the key of the Ceph user of an rbd: disk: "
            "12 to 255 bytes, in a file of mode 0600.",
            default=None,
            default_words="there is no CHAP; the key is in the keyring",
            example='"backing.secret"',
            off=True,
        ),
    ]
    disk_initiator_name: Annotated[
        str | None,
        key(
            ISCSI_NAME,
            "What this node calls itself to the target of an iscsi:// disk; another name on every node.",
            default=None,
            default_words="made of the host's name",
            example='"iqn.2026-11.org.example:node1"',
            off=True,
        ),
    ]
    disk_timeout_s: Annotated[
        float,
        key(
            number(0, 3600),
            "How long a call to an iscsi:// or rbd: disk may take, and wait for what was lost, before it fails.",
            default=30.0,
            example="30.0",
        ),
    ]
    create: Annotated[
        int | None,
        key(
            size(512),
            "Make the file or the image, of this size, when it is missing. One that is there may be longer, for it can "
            "have grown.",
            default=None,
            default_words="a missing file is an error",
            example='"10G"',
        ),
    ]
    provisioning: Annotated[
        str,
        key(
            choice("thin", "full"),
            "thin: blocks take space when they are written, and initiators can give them back; full: they have it from "
            "the beginning, and keep it.",
            default="thin",
            example='"thin"',
        ),
    ]
    read_only: Annotated[bool, key(BOOLEAN, "Whether writes are refused.", default=False, example="false")]
    removable: Annotated[
        bool, key(BOOLEAN, "Whether it is a removable medium, which can be ejected.", default=False, example="false")
    ]
    block_bytes: Annotated[
        int,
        key(
            one_of_numbers(512, 4096),
            "The length of a logical block. Initiators lose their partition table when it is changed.",
            default=512,
            example="512",
        ),
    ]
    physical_block_bytes: Annotated[
        int,
        key(
            one_of_numbers(*(512 << shift for shift in range(12))),
            "What the disk writes at once, which initiators align to: at least block_bytes.",
            default=0,
            default_words="what the disk says of itself",
            example="4096",
            off=True,
        ),
    ]
    vendor: Annotated[
        str | None,
        key(
            _letters(8),
            "The vendor that it names.",
            default=None,
            default_words='"CSVD"',
            example='"CSVD"',
            off=True,
        ),
    ]
    product: Annotated[
        str | None,
        key(
            _letters(16),
            "The product that it names.",
            default=None,
            default_words='"VOLUME"',
            example='"VOLUME"',
            off=True,
        ),
    ]
    revision: Annotated[
        str | None,
        key(_letters(4), "The revision that it names.", default=None, default_words='"1"', example='"1"', off=True),
    ]
    serial: Annotated[
        str | None,
        key(
            _letters(64),
            "Its serial number, by which initiators know that they see the same disk through two nodes: give every "
            "node the same.",
            default=None,
            default_words="made of the disk's absolute path, or the name that it has of itself",
            example='"shared-1"',
            off=True,
        ),
    ]
    naa: Annotated[
        bytes | None,
        key(
            hexadecimal(8, 16),
            "Its NAA designator in hexadecimal digits: 16 bytes that begin with 6, or 8 that begin with 2, 3 or 5.",
            default=None,
            default_words="made of its serial number",
            example='"6024353000000000000000000000abcd"',
            off=True,
        ),
    ]
    direct: Annotated[
        bool,
        key(
            BOOLEAN,
            "Go past the page cache (O_DIRECT), so that nothing of it is held twice.",
            default=False,
            example="false",
        ),
    ]
    soft_threshold_percent: Annotated[
        int,
        key(
            whole(0, 100),
            "How full a thin one is when initiators are told so; 0 for never.",
            default=0,
            example="0",
        ),
    ]
    rotation_rate: Annotated[
        int,
        key(
            ROTATION_RATE,
            "The medium's rotations a minute; 1 for one that does not rotate, 0 to say nothing of it.",
            default=0,
            example="0",
        ),
    ]
    write_cache: Annotated[
        bool | None,
        key(
            BOOLEAN,
            "Whether a write may be acknowledged before it is durable (WCE); false makes each write wait for the disk.",
            default=None,
            default_words="true for a disk with a cache",
            example="true",
            off=True,
        ),
    ]
    max_transfer: Annotated[
        int,
        key(
            size(65536, 256 << 20),
            "The longest read or write that it takes in one command.",
            default=DEFAULT_MAX_TRANSFER_BYTES,
            default_words='"8M"',
            example='"8M"',
        ),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetSection:
    """An iSCSI target."""

    name: Annotated[
        str,
        key(
            ISCSI_NAME,
            "Its iSCSI name; the same on every node that exports the same disks.",
            example='"iqn.2026-11.org.example:shared"',
        ),
    ]
    alias: Annotated[
        str,
        key(
            text("1 to 255 characters", _check_alias),
            "A name for people, which initiators are told at login.",
            default="",
            default_words="none",
            example='"the shared disk"',
            off=True,
        ),
    ]
    portals: Annotated[
        Sequence[str],
        key(
            list_of(PORTAL),
            "Where it listens: its first portal group. Port 0 takes a free one. Targets with the same tag share the "
            "portals of the group.",
            default=None,
            default_words='["127.0.0.1:3260"], unless there is a [[target.portal_group]]',
            example='["127.0.0.1:3260"]',
        ),
    ]
    portal_group_tag: Annotated[
        int,
        key(
            whole(1, 65535),
            "The tag of its portals; another one on every node that has a target of this name in its file. Targets of "
            "the cluster have another on every node by themselves.",
            default=None,
            default_words="1",
            example="1",
            off=True,
        ),
    ]
    access_state: Annotated[str, _access_state()]
    initiators: Annotated[
        Sequence[str] | None,
        key(
            list_of(ISCSI_NAME, least=0),
            "The names of the initiators that may log in, beside those of [[target.acl]].",
            default=None,
            default_words="all may, as long as there is no [[target.acl]]",
            example='["iqn.2026-11.org.example:host1"]',
            off=True,
        ),
    ]
    networks: Annotated[
        Sequence[str] | None,
        key(
            list_of(NETWORK),
            "The addresses from which initiators may log in, as networks.",
            default=None,
            default_words="any",
            example='["10.0.0.0/8", "fd00::/8"]',
            off=True,
        ),
    ]
    queue_depth: Annotated[
        int,
        key(
            whole(1, 1024),
            "The commands that a session may have outstanding.",
            default=DEFAULT_QUEUE_DEPTH,
            example="64",
        ),
    ]
    chap: Annotated[
        ChapSection | None, table(ChapSection, "Demand CHAP, also for discovery.", is_optional=True, off=True)
    ]
    redirect: Annotated[
        RedirectSection | None,
        table(RedirectSection, "Send logins on to another portal.", is_optional=True, off=True),
    ]
    portal_group: Annotated[
        Sequence[PortalGroupSection],
        tables(PortalGroupSection, "A further portal group; one of these for each.", off=True),
    ]
    acl: Annotated[
        Sequence[AclSection], tables(AclSection, "An initiator that may log in; one of these for each.", off=True)
    ]
    lun: Annotated[Sequence[LunSection], tables(LunSection, "A logical unit; one of these for each.")]

    def groups(self) -> Mapping[int, Sequence[str]]:
        """Its portal groups: portals by tag."""
        own = {self.portal_group_tag: tuple(self.portals)} if self.portals else {}
        return own | {group.tag: tuple(group.portals) for group in self.portal_group}

    def access_states(self) -> Mapping[int, str]:
        """The asymmetric access states of its portal groups by tag."""
        own = {self.portal_group_tag: self.access_state} if self.portals else {}
        return own | {group.tag: group.access_state for group in self.portal_group}


def portal_groups(targets: Sequence[TargetSection]) -> Mapping[int, Sequence[str]]:
    """The portal groups of a node: portals by tag; targets with the same tag share the portals of the group."""
    groups: dict[int, dict[str, None]] = {}
    for target in targets:
        for tag, portals in target.groups().items():
            groups.setdefault(tag, {}).update(dict.fromkeys(portals))
    return {tag: tuple(portals) for tag, portals in groups.items()}
