"""The identities of nodes that know one secret: each can make those of all, until a register names their keys."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from csvd.cluster.identity.certificate import Authority, NodeIdentity, fingerprint
from csvd.errors import ConfigError

MINIMUM_SECRET_BYTES: Final = 16
MAXIMUM_SECRET_BYTES: Final = 4096


def identity_of_secret(secret: bytes, node: str, *, now_s: float) -> NodeIdentity:
    """The identity of a node among those that know the secret.

    Raises:
        ConfigError: the secret is too short or too long.
    """
    if not MINIMUM_SECRET_BYTES <= len(secret) <= MAXIMUM_SECRET_BYTES:
        raise ConfigError(
            f"the secret of the cluster has {len(secret)} bytes",
            hint=f"it needs {MINIMUM_SECRET_BYTES} to {MAXIMUM_SECRET_BYTES} random bytes, the same on every node",
        )
    authority = Authority.make("secret", now_s=now_s, key=_key(secret, "authority"))
    key = _key(secret, f"node {node}")
    certificate = authority.certify(node, key.public_key(), now_s=now_s)
    return NodeIdentity(authority, certificate, key, _derived(secret, "data"))


def fingerprints_of_secret(secret: bytes, nodes: Iterable[str]) -> dict[str, list[str]]:
    """The fingerprints of all nodes that know the secret."""
    return {node: [fingerprint(_key(secret, f"node {node}").public_key())] for node in nodes}


def _key(secret: bytes, what: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(_derived(secret, what))


def _derived(secret: bytes, what: str) -> bytes:
    extracted = hmac.digest(b"csvd cluster identities", secret, "sha256")
    return hmac.digest(extracted, what.encode() + b"\x01", "sha256")
