"""The certificates of a cluster: its authority signs those of the nodes; a key is known by its fingerprint.

Keys are Ed25519 (RFC 8410). A fingerprint is the SHA-256 of a key's SubjectPublicKeyInfo, in hexadecimal: it stays the
same when a certificate is made anew for the same key. Every member holds the authority's key, so a signature alone
admits nobody: what admits is that the register names the fingerprint. Times are seconds since 1970, given as arguments.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.hazmat.primitives.serialization import load_pem_private_key as _load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from csvd.cluster.errors import AuthenticationError
from csvd.cluster.names import is_node_name
from csvd.errors import ConfigError

DAY_S: Final = 86400
NODE_LIFE_S: Final = 365 * DAY_S
AUTHORITY_LIFE_S: Final = 50 * NODE_LIFE_S
"""Longer than any cluster: what counts is what the register says."""
CLOCK_SLACK_S: Final = 3600
"""How far a node's clock may be behind the one of the node that signed its certificate."""
DATA_KEY_BYTES: Final = 32

_ORGANIZATION: Final = "csvd"


def fingerprint(key: CertificatePublicKeyTypes) -> str:
    """The SHA-256 of a key's SubjectPublicKeyInfo, in hexadecimal."""
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def certificate_fingerprint(certificate: x509.Certificate) -> str:
    """The fingerprint of the key of a certificate of any kind."""
    return fingerprint(certificate.public_key())


def common_name(certificate: x509.Certificate) -> str:
    """The name that a certificate is for; empty where it has none, or more than one."""
    try:
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except ValueError:
        return ""
    return str(names[0].value) if len(names) == 1 else ""


@dataclass(frozen=True, slots=True, repr=False)
class Authority:
    """The certificate authority of a cluster, with its key; repr() does not show it."""

    certificate: x509.Certificate
    key: Ed25519PrivateKey

    @classmethod
    def make(cls, cluster: str, *, now_s: float, key: Ed25519PrivateKey | None = None) -> Authority:
        """Make the authority of a new cluster."""
        key = key or Ed25519PrivateKey.generate()
        name = _name(cluster)
        builder = _builder(name, name, key.public_key(), now_s, AUTHORITY_LIFE_S)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_usage(is_authority=True), critical=True)
        return cls(builder.sign(key, None), key)

    @property
    def cluster(self) -> str:
        """The name of the cluster."""
        return common_name(self.certificate)

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the authority's key."""
        return certificate_fingerprint(self.certificate)

    def certify(
        self, node: str, key: Ed25519PublicKey, *, now_s: float, life_s: float = NODE_LIFE_S
    ) -> x509.Certificate:
        """Make the certificate of a node's key, valid from an hour ago."""
        builder = _builder(_name(node), self.certificate.subject, key, now_s, life_s)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_usage(is_authority=False), critical=True)
        builder = builder.add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        return builder.sign(self.key, None)


@dataclass(frozen=True, slots=True, repr=False)
class NodeIdentity:
    """Who a node is: its key, its certificate, the cluster's authority and data key; repr() shows none of them.

    Attributes:
        authority: of the cluster, with its key: every member can sign a joining node's certificate.
        certificate: of this node, by the authority.
        key: of the certificate.
        data_key: 32 bytes, the same on every node, for secrets that the cluster keeps on a shared disk.
    """

    authority: Authority
    certificate: x509.Certificate
    key: Ed25519PrivateKey
    data_key: bytes

    @classmethod
    def make(cls, node: str, authority: Authority, data_key: bytes, *, now_s: float) -> NodeIdentity:
        """Make a node's key and certificate."""
        key = Ed25519PrivateKey.generate()
        return cls(authority, authority.certify(node, key.public_key(), now_s=now_s), key, data_key)

    def renewed(self, *, now_s: float) -> NodeIdentity:
        """The same node with a new key and certificate."""
        return NodeIdentity.make(self.node, self.authority, self.data_key, now_s=now_s)

    @property
    def cluster(self) -> str:
        """The name of the cluster."""
        return self.authority.cluster

    @property
    def node(self) -> str:
        """The name of this node."""
        return common_name(self.certificate)

    @property
    def fingerprint(self) -> str:
        """The fingerprint of this node's key."""
        return certificate_fingerprint(self.certificate)

    @property
    def expires_at_s(self) -> float:
        """When the certificate is not valid any more."""
        return self.certificate.not_valid_after_utc.timestamp()

    @property
    def renew_at_s(self) -> float:
        """When the certificate is to be renewed: at two thirds of its life."""
        begin_s = self.certificate.not_valid_before_utc.timestamp()
        return begin_s + (self.expires_at_s - begin_s) * 2 / 3


def make_cluster(cluster: str, nodes: list[str], *, now_s: float) -> dict[str, NodeIdentity]:
    """Make the authority of a new cluster and the identities of its nodes, by their names."""
    authority = Authority.make(cluster, now_s=now_s)
    data_key = os.urandom(DATA_KEY_BYTES)
    return {node: NodeIdentity.make(node, authority, data_key, now_s=now_s) for node in nodes}


def check_certificate(certificate: x509.Certificate, authority: x509.Certificate, *, now_s: float) -> str:
    """Check that a certificate is a node's, by this authority, and valid now; give the node's name.

    That the key of the certificate is the peer's is TLS's to prove, and that it is a member's the register's to say.

    Raises:
        AuthenticationError: it is by another authority, expired, not valid yet, or for no node.
    """
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError) as error:
        raise AuthenticationError("its certificate is not by this cluster's authority") from error
    for what, checked in (("its certificate", certificate), ("the authority's certificate", authority)):
        _check_times(what, checked, now_s)
    name = common_name(certificate)
    if not is_node_name(name):
        raise AuthenticationError("its certificate is not a node's", why=f"it is for {name[:64]!r}")
    return name


def _check_times(what: str, certificate: x509.Certificate, now_s: float) -> None:
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now_s < begin.timestamp():
        raise AuthenticationError(f"{what} is not valid before {begin:%Y-%m-%d %H:%M:%S} UTC")
    if now_s >= end.timestamp():
        raise AuthenticationError(f"{what} expired at {end:%Y-%m-%d %H:%M:%S} UTC")


def self_signed(name: str, key: Ed25519PrivateKey, *, now_s: float, life_s: float = DAY_S) -> x509.Certificate:
    """Make a certificate that shows a key and nothing else: what a joining node presents."""
    subject = _name(name)
    return _builder(subject, subject, key.public_key(), now_s, life_s).sign(key, None)


def is_self_signed(certificate: x509.Certificate) -> bool:
    """Whether a certificate is signed by its own key."""
    try:
        certificate.verify_directly_issued_by(certificate)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def make_request(name: str, key: Ed25519PrivateKey) -> bytes:
    """Make the request (PKCS #10, PEM) for a certificate of a key; it proves that the key is there."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(_name(name))
    return builder.sign(key, None).public_bytes(Encoding.PEM)


def key_of_request(request: bytes) -> Ed25519PublicKey:
    """The key that a request is for.

    Raises:
        AuthenticationError: it is no request, not for an Ed25519 key, or not signed by that key.
    """
    try:
        read = x509.load_pem_x509_csr(request)
        key = read.public_key()
        is_valid = read.is_signature_valid
    except Exception as error:
        # What cryptography raises for bad input is not one class.
        raise AuthenticationError("it asks for a certificate by something that is no request") from error
    if not isinstance(key, Ed25519PublicKey) or not is_valid:
        raise AuthenticationError("its request for a certificate is not signed by an Ed25519 key of its own")
    return key


def certificate_pem(certificate: x509.Certificate) -> bytes:
    """A certificate as PEM."""
    return certificate.public_bytes(Encoding.PEM)


def key_pem(key: Ed25519PrivateKey) -> bytes:
    """A private key as PEM (PKCS #8), without a password: the file's mode protects it."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def read_certificate(pem: bytes, *, where: str) -> x509.Certificate:
    """Read a certificate from PEM.

    Raises:
        ConfigError: it is none.
    """
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise ConfigError("is not a certificate", where=where) from error


def read_key(pem: bytes, *, where: str) -> Ed25519PrivateKey:
    """Read a private key from PEM.

    Raises:
        ConfigError: it is none, or not an Ed25519 key.
    """
    try:
        key = _load_pem_private_key(pem, None)
    except (ValueError, TypeError) as error:
        raise ConfigError("is not a private key", where=where) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError("is not an Ed25519 key", where=where)
    return key


def _name(common: str) -> x509.Name:
    organization = x509.NameAttribute(NameOID.ORGANIZATION_NAME, _ORGANIZATION)
    return x509.Name([organization, x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: Ed25519PublicKey, now_s: float, life_s: float
) -> x509.CertificateBuilder:
    begin_s = now_s - CLOCK_SLACK_S
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.fromtimestamp(begin_s, UTC))
        .not_valid_after(datetime.fromtimestamp(now_s + life_s, UTC))
    )


def _usage(*, is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_authority,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
