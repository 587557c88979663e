"""What a node that joins stores, in an order in which a crash at any point can be repeated.

First comes the directory `identity.joining` with the node's key: asked again with it, the cluster gives the same
answer. When the cluster has answered, everything else is written beside the key, `first_members` among it, and the
directory becomes `identity`. Only then is the node of the cluster.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from csvd.cluster.identity.certificate import NodeIdentity, key_pem
from csvd.cluster.identity.files import (
    IDENTITY_FOLDER,
    has_identity,
    identity_files,
    make_directory,
    read_file,
    read_private_key,
    sync_directory,
    write_file,
)
from csvd.errors import ConfigError

JOINING_FOLDER: Final = "identity.joining"

_KEY: Final = "node.key"
_FIRST_MEMBERS: Final = "first_members"
_MAXIMUM_MEMBERS_BYTES: Final = 64 * 1024

FirstMembers = Mapping[str, tuple[str, tuple[str, ...]]]
"""By the id of each member its address, `host:port`, and the fingerprints of its keys."""


def is_joining(cluster_directory: Path) -> bool:
    """Whether a join was begun and is not done."""
    return (cluster_directory / JOINING_FOLDER / _KEY).exists()


def joining_key(cluster_directory: Path) -> Ed25519PrivateKey:
    """The key of a node that joins: the one that it has asked with before, or a new one, which is durable.

    Raises:
        ConfigError: it can not be read or written, or the node is of a cluster already.
    """
    if has_identity(cluster_directory):
        raise ConfigError("this node is of a cluster already", where=str(cluster_directory / IDENTITY_FOLDER))
    directory = cluster_directory / JOINING_FOLDER
    if is_joining(cluster_directory):
        return read_private_key(directory / _KEY)
    make_directory(directory)
    key = Ed25519PrivateKey.generate()
    write_file(directory / _KEY, key_pem(key))
    return key


def store_joined(cluster_directory: Path, identity: NodeIdentity, members: FirstMembers) -> None:
    """Store what the cluster has answered; the node is of the cluster when this returns.

    Raises:
        ConfigError: it can not be written.
    """
    directory = cluster_directory / JOINING_FOLDER
    for name, data in identity_files(identity).items():
        write_file(directory / name, data)
    write_file(directory / _FIRST_MEMBERS, msgspec.json.encode(members))
    try:
        os.rename(directory, cluster_directory / IDENTITY_FOLDER)
    except OSError as error:
        raise ConfigError("the identity can not be stored", where=str(directory), why=error.strerror or "") from error
    sync_directory(cluster_directory)


def load_first_members(cluster_directory: Path) -> FirstMembers:
    """The members that there were when this node joined; empty where it did not join, but began the cluster.

    Raises:
        ConfigError: the file is damaged.
    """
    path = cluster_directory / IDENTITY_FOLDER / _FIRST_MEMBERS
    if not path.exists():
        return {}
    try:
        return msgspec.json.decode(read_file(path, _MAXIMUM_MEMBERS_BYTES), type=dict[str, tuple[str, tuple[str, ...]]])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ConfigError("is damaged", where=str(path), why=str(error)) from error
