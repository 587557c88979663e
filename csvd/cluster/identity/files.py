"""The files of a node's identity: made whole or not at all, durable, and readable by nobody else.

The directory `identity` of the cluster's state directory holds

    authority.pem  authority.key     the cluster's certificate authority
    node.pem       node.key          this node's certificate
    data.key                         the cluster's key for secrets on shared disks, 32 bytes; after it those that were
                                     before it, as long as something may be sealed with them
    node.pem.new   node.key.new      while the certificate is being renewed
    first_members                    of a node that joined: who was there then (csvd.cluster.identity.joining_files)

all of mode 0600. A directory that is being filled has another name, and gets this one when everything in it is durable.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from csvd import durable_file
from csvd.cluster.identity.certificate import (
    DATA_KEY_BYTES,
    Authority,
    NodeIdentity,
    certificate_fingerprint,
    certificate_pem,
    fingerprint,
    key_pem,
    read_certificate,
    read_key,
)
from csvd.errors import ConfigError

IDENTITY_FOLDER: Final = "identity"

_AUTHORITY_PEM: Final = "authority.pem"
_AUTHORITY_KEY: Final = "authority.key"
_NODE_PEM: Final = "node.pem"
_NODE_KEY: Final = "node.key"
_DATA_KEY: Final = "data.key"
_NEW: Final = ".new"
MAXIMUM_FILE_BYTES: Final = 16384


def has_identity(cluster_directory: Path) -> bool:
    """Whether a node is of a cluster, by its cluster state directory."""
    return (cluster_directory / IDENTITY_FOLDER).is_dir()


def load_identity(cluster_directory: Path) -> NodeIdentity:
    """Read a node's identity; finishes a renewal that a crash cut short between its two files.

    Raises:
        ConfigError: a file is missing, damaged, does not fit the others, or may be read by others.
    """
    directory = cluster_directory / IDENTITY_FOLDER
    _finish_renewal(directory)
    authority = Authority(_certificate(directory, _AUTHORITY_PEM), _key(directory, _AUTHORITY_KEY))
    _check_pair(directory, _AUTHORITY_PEM, certificate_fingerprint(authority.certificate), authority.key)
    data_key = load_data_keys(cluster_directory)[0]
    identity = NodeIdentity(authority, _certificate(directory, _NODE_PEM), _key(directory, _NODE_KEY), data_key)
    _check_pair(directory, _NODE_PEM, identity.fingerprint, identity.key)
    return identity


def load_data_keys(cluster_directory: Path) -> Sequence[bytes]:
    """Read the cluster's keys for secrets on shared disks: the current one, and those that were before it.

    Raises:
        ConfigError: the file is missing, is of another length, or may be read by others.
    """
    path = cluster_directory / IDENTITY_FOLDER / _DATA_KEY
    data = read_file(path)
    if not data or len(data) % DATA_KEY_BYTES:
        raise ConfigError(f"has {len(data)} bytes, no whole number of {DATA_KEY_BYTES}", where=str(path))
    return [data[at : at + DATA_KEY_BYTES] for at in range(0, len(data), DATA_KEY_BYTES)]


def store_data_keys(cluster_directory: Path, keys: Sequence[bytes]) -> None:
    """Store these keys, the current one first, in place of those that were there; durable when it returns.

    Raises:
        ConfigError: they can not be written.
    """
    write_file(cluster_directory / IDENTITY_FOLDER / _DATA_KEY, b"".join(keys))


def store_identity(cluster_directory: Path, identity: NodeIdentity) -> None:
    """Store the identity of a node that has none; it is there as a whole, and durable, when this returns.

    Raises:
        ConfigError: there is one, or it can not be written.
    """
    with new_directory(cluster_directory) as directory:
        for name, data in identity_files(identity).items():
            write_file(directory / name, data)


def identity_files(identity: NodeIdentity) -> Mapping[str, bytes]:
    """The content of each file of an identity, by its name."""
    return {
        _AUTHORITY_PEM: certificate_pem(identity.authority.certificate),
        _AUTHORITY_KEY: key_pem(identity.authority.key),
        _NODE_PEM: certificate_pem(identity.certificate),
        _NODE_KEY: key_pem(identity.key),
        _DATA_KEY: identity.data_key,
    }


def certify_again(cluster_directory: Path, identity: NodeIdentity, *, now_s: float) -> NodeIdentity:
    """Give a node whose certificate has expired a new one for the same key, by the authority's key that it has.

    So a cluster that was off for longer than certificates are valid comes up again. It lets in nobody who is not let in
    else: that is the register's to say, of the key.
    """
    certificate = identity.authority.certify(identity.node, identity.key.public_key(), now_s=now_s)
    directory = cluster_directory / IDENTITY_FOLDER
    write_file(directory / _NODE_PEM, certificate_pem(certificate))
    return NodeIdentity(identity.authority, certificate, identity.key, identity.data_key)


def store_renewal(cluster_directory: Path, identity: NodeIdentity) -> None:
    """Keep a renewed key and certificate beside the ones in use, durably, until `use_renewal`."""
    directory = cluster_directory / IDENTITY_FOLDER
    # The key last: `load_renewal` takes only a whole pair.
    write_file(directory / (_NODE_PEM + _NEW), certificate_pem(identity.certificate))
    write_file(directory / (_NODE_KEY + _NEW), key_pem(identity.key))


def load_renewal(cluster_directory: Path, identity: NodeIdentity) -> NodeIdentity | None:
    """The renewed identity that a node had stored and not used yet; None where there is none."""
    directory = cluster_directory / IDENTITY_FOLDER
    if not all((directory / (name + _NEW)).exists() for name in (_NODE_PEM, _NODE_KEY)):
        return None
    certificate, key = _certificate(directory, _NODE_PEM + _NEW), _key(directory, _NODE_KEY + _NEW)
    if certificate_fingerprint(certificate) != fingerprint(key.public_key()):
        return None
    return NodeIdentity(identity.authority, certificate, key, identity.data_key)


def use_renewal(cluster_directory: Path) -> None:
    """Put the renewed pair in the place of the old one, durably."""
    directory = cluster_directory / IDENTITY_FOLDER
    try:
        os.rename(directory / (_NODE_KEY + _NEW), directory / _NODE_KEY)
        os.rename(directory / (_NODE_PEM + _NEW), directory / _NODE_PEM)
    except OSError as error:
        raise _failed(directory, "the certificate can not be renewed", error) from error
    sync_directory(directory)


@contextmanager
def new_directory(cluster_directory: Path) -> Iterator[Path]:
    """A directory to fill with an identity; it gets its name, durably, at the end of the block.

    Raises:
        ConfigError: there is an identity, or the directory can not be made.
    """
    target = cluster_directory / IDENTITY_FOLDER
    if target.exists():
        raise ConfigError("this node is of a cluster already", where=str(target))
    directory = cluster_directory / (IDENTITY_FOLDER + _NEW)
    make_directory(directory)
    yield directory
    try:
        os.rename(directory, target)
    except OSError as error:
        raise _failed(target, "the identity can not be stored", error) from error
    sync_directory(cluster_directory)


def make_directory(directory: Path) -> None:
    """Make a directory of mode 0700, with those above it, durably.

    Raises:
        ConfigError: it can not be made.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _failed(directory, "the directory can not be made", error) from error
    for above in (directory, directory.parent, directory.parent.parent):
        sync_directory(above)


def write_file(path: Path, data: bytes) -> None:
    """Write a file of mode 0600 in place of the one that had its name, in one step; it is durable.

    Raises:
        ConfigError: it can not be written.
    """
    try:
        durable_file.replace_file(path, data)
    except OSError as error:
        raise _failed(path, "can not be written", error) from error


def read_private_key(path: Path) -> Ed25519PrivateKey:
    """Read a private key from a file of mode 0600.

    Raises:
        ConfigError: it is none, can not be read, or others may read it.
    """
    return read_key(read_file(path), where=str(path))


def _certificate(directory: Path, name: str) -> x509.Certificate:
    path = directory / name
    return read_certificate(read_file(path), where=str(path))


def _key(directory: Path, name: str) -> Ed25519PrivateKey:
    return read_private_key(directory / name)


def _check_pair(directory: Path, name: str, of_certificate: str, key: Ed25519PrivateKey) -> None:
    if of_certificate != fingerprint(key.public_key()):
        raise ConfigError("the certificate is not for the key beside it", where=str(directory / name))


def _finish_renewal(directory: Path) -> None:
    """Between the two renames of `use_renewal`: the key is the new one, the certificate still the old one."""
    renewed = directory / (_NODE_PEM + _NEW)
    if not renewed.exists() or (directory / (_NODE_KEY + _NEW)).exists():
        return
    if certificate_fingerprint(_certificate(directory, _NODE_PEM + _NEW)) == fingerprint(
        _key(directory, _NODE_KEY).public_key()
    ):
        try:
            os.rename(renewed, directory / _NODE_PEM)
        except OSError as error:
            raise _failed(directory, "the certificate can not be renewed", error) from error
        sync_directory(directory)


def read_file(path: Path, limit_bytes: int = MAXIMUM_FILE_BYTES) -> bytes:
    """Read a file of mode 0600.

    Raises:
        ConfigError: it can not be read, is longer than the limit, or others may read it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(descriptor)
            data = os.read(descriptor, limit_bytes + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _failed(path, "can not be read", error) from error
    if stat.S_IMODE(status.st_mode) & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError("others may read this file of the node's identity", where=str(path), hint=f"chmod 600 {path}")
    if len(data) > limit_bytes:
        raise ConfigError(f"is longer than {limit_bytes} bytes", where=str(path))
    return data


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable.

    Raises:
        ConfigError: the disk refused.
    """
    try:
        durable_file.sync_directory(directory)
    except OSError as error:
        raise _failed(directory, "can not be made durable", error) from error


def _failed(path: Path, what: str, error: OSError) -> ConfigError:
    return ConfigError(what, where=str(path), why=error.strerror or type(error).__name__)
