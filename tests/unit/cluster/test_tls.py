"""The channel between two nodes: TLS 1.3, both certificates shown and proven, and only what a member sends is taken."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from csvd.cluster.errors import AuthenticationError
from csvd.cluster.identity.certificate import (
    CLOCK_SLACK_S,
    NODE_LIFE_S,
    Authority,
    NodeIdentity,
    certificate_pem,
    key_pem,
    make_cluster,
    self_signed,
)
from csvd.cluster.tls import MAXIMUM_HANDSHAKE_BYTES, TlsChannel, node_context, tls_context
from tests.unit.cluster.wire import MEMBERS, NOW_S, admittance, dialing, established, listening


def refusal(dialer: TlsChannel, listener: TlsChannel) -> str:
    """Why the listener does not let the dialer in; it must have said nothing that TLS does not say before it knows."""
    answer, _ = listener.receive(dialer.start())
    proof, _ = dialer.receive(answer)
    with pytest.raises(AuthenticationError) as refused:
        listener.receive(proof)
    assert not listener.is_established
    return str(refused.value)


def test_two_members_know_each_other_and_speak_tls_1_3() -> None:
    dialer, listener = established()
    assert dialer.is_established
    assert listener.is_established
    assert dialer._connection.get_protocol_version_name() == "TLSv1.3"


def test_bytes_go_both_ways_whole_and_in_order() -> None:
    dialer, listener = established()
    sent = [bytes([number]) * length for number, length in enumerate((1, 16384, 16385, 300_000))]
    data = b"".join(dialer.seal(part[: len(part) // 2], part[len(part) // 2 :]) for part in sent)
    answer, pieces = listener.receive(data)
    assert (answer, b"".join(pieces)) == (b"", b"".join(sent))
    assert dialer.receive(listener.seal(b"back"))[1] == [b"back"]


def test_what_is_said_can_not_be_read_on_the_wire() -> None:
    dialer, _ = established()
    assert b"the secret of a guest" not in dialer.seal(b"the secret of a guest")


def test_bytes_may_follow_the_dialers_proof_at_once() -> None:
    dialer, listener = dialing(), listening()
    answer, _ = listener.receive(dialer.start())
    proof, _ = dialer.receive(answer)
    assert listener.receive(proof + dialer.seal(b"early"))[1] == [b"early"]


def test_the_end_of_the_channel_is_said_and_nothing_is_taken_after_it() -> None:
    dialer, listener = established()
    listener.receive(dialer.seal(b"last") + dialer.end())
    assert listener.is_ended
    assert listener.receive(bytes(100_000)) == (b"", [])


def test_a_certificate_of_another_authority_of_the_same_name_is_refused() -> None:
    stranger = make_cluster("tests", ["n1"], now_s=NOW_S)["n1"]
    assert "not by this cluster's authority" in refusal(dialing(identity=stranger), listening())


def test_a_dialer_proves_nothing_to_a_stranger() -> None:
    stranger = make_cluster("tests", ["n2"], now_s=NOW_S)["n2"]
    dialer = dialing()
    listener = TlsChannel(node_context(stranger), lambda chain: None, is_dialer=False)
    answer, _ = listener.receive(dialer.start())
    with pytest.raises(AuthenticationError, match="not by this cluster's authority"):
        dialer.receive(answer)


def test_a_dialer_tells_the_members_apart() -> None:
    listener = listening("n3")
    dialer = dialing("n2")
    with pytest.raises(AuthenticationError, match="n2: the node at this address is n3"):
        dialer.receive(listener.receive(dialer.start())[0])


@pytest.mark.parametrize(
    ("now_s", "why"),
    [
        (NOW_S + NODE_LIFE_S + 1, "its certificate expired at"),
        (NOW_S - CLOCK_SLACK_S - 2, "its certificate is not valid before"),
    ],
)
def test_a_certificate_that_is_not_valid_at_the_time_is_refused(now_s: float, why: str) -> None:
    assert why in refusal(dialing(), listening(now_s=now_s))


def test_a_certificate_of_a_key_that_is_not_a_members_is_refused() -> None:
    removed = NodeIdentity.make("n1", MEMBERS["n1"].authority, bytes(32), now_s=NOW_S)
    assert "not a member's: it is for n1, or was revoked" in refusal(dialing(identity=removed), listening())


def test_a_member_can_not_show_a_certificate_in_another_members_name() -> None:
    own = MEMBERS["n3"]
    forged = own.authority.certify("n1", own.key.public_key(), now_s=NOW_S)
    identity = NodeIdentity(own.authority, forged, own.key, own.data_key)
    assert "in another node's name: it is n3, not n1" in refusal(dialing(identity=identity), listening())


def test_a_members_certificate_without_its_key_is_refused() -> None:
    with pytest.raises(Exception, match="key values mismatch"):
        tls_context(MEMBERS["n1"].certificate, Ed25519PrivateKey.generate())
    other = Ed25519PrivateKey.generate()
    lookalike = Authority(MEMBERS["n1"].authority.certificate, other).certify("n1", other.public_key(), now_s=NOW_S)
    identity = NodeIdentity(MEMBERS["n1"].authority, lookalike, other, bytes(32))
    assert "not by this cluster's authority" in refusal(dialing(identity=identity), listening())


def test_the_authoritys_own_certificate_lets_nobody_in() -> None:
    authority = MEMBERS["n1"].authority
    identity = NodeIdentity(authority, authority.certificate, authority.key, bytes(32))
    assert "join token" in refusal(dialing(identity=identity), listening())


def test_a_self_signed_certificate_of_no_token_is_refused() -> None:
    key = Ed25519PrivateKey.generate()
    identity = NodeIdentity(MEMBERS["n1"].authority, self_signed("n1", key, now_s=NOW_S), key, bytes(32))
    assert "used, expired, revoked or of another cluster" in refusal(dialing(identity=identity), listening())


def test_this_nodes_own_certificate_from_elsewhere_is_refused() -> None:
    assert "this node's own certificate" in refusal(dialing(identity=MEMBERS["n2"]), listening())


class Client:
    """A client of Python's own ssl module, over memory."""

    def __init__(self, tmp_path: Path, *, shows: NodeIdentity | None, version: ssl.TLSVersion) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.check_hostname = False
        self.context.verify_mode = ssl.CERT_NONE
        self.context.minimum_version = self.context.maximum_version = version
        if shows is not None:
            pem = tmp_path / "shown.pem"
            pem.write_bytes(certificate_pem(shows.certificate) + key_pem(shows.key))
            self.context.load_cert_chain(pem)

    def meet(self, listener: TlsChannel, session: ssl.SSLSession | None = None) -> ssl.SSLObject:
        """Shake hands with a channel."""
        to_client, to_listener = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = self.context.wrap_bio(to_client, to_listener, session=session)
        while True:
            try:
                client.do_handshake()
                is_done = True
            except ssl.SSLWantReadError:
                is_done = False
            to_client.write(listener.receive(to_listener.read())[0])
            if is_done:
                return client


def test_a_dialer_without_a_certificate_is_refused(tmp_path: Path) -> None:
    client = Client(tmp_path, shows=None, version=ssl.TLSVersion.TLSv1_3)
    with pytest.raises(AuthenticationError, match="peer did not return a certificate"):
        client.meet(listening())


def test_tls_1_2_is_refused_also_of_a_member(tmp_path: Path) -> None:
    client = Client(tmp_path, shows=MEMBERS["n1"], version=ssl.TLSVersion.TLSv1_2)
    listener = listening()
    with pytest.raises(AuthenticationError, match="unsupported protocol"):
        client.meet(listener)
    assert not listener.is_established


def test_a_session_is_never_resumed(tmp_path: Path) -> None:
    client = Client(tmp_path, shows=MEMBERS["n1"], version=ssl.TLSVersion.TLSv1_3)
    first = client.meet(listening())
    assert first.version() == "TLSv1.3"
    again = client.meet(listening(), session=first.session)
    assert not again.session_reused


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", b"\x80\x04\x95\x10\x00\x00\x00\x00", bytes(100)])
def test_other_protocols_are_refused_at_their_first_bytes(data: bytes) -> None:
    with pytest.raises(AuthenticationError, match="TLS handshake failed"):
        listening().receive(data)


def test_a_handshake_without_end_is_refused() -> None:
    listener = listening()
    # Records of one byte of a ClientHello that is said to be long.
    listener.receive(b"\x16\x03\x01\x00\x04\x01\x00\xff\xff")
    more = b"\x16\x03\x01\x00\x01\x00" * 100

    def go_on() -> None:
        for _ in range(MAXIMUM_HANDSHAKE_BYTES // len(more) + 2):
            listener.receive(more)

    with pytest.raises(AuthenticationError, match="its handshake has no end"):
        go_on()


@pytest.mark.parametrize("position", [0, 3, 5, 20, -1])
def test_a_byte_that_is_changed_ends_the_channel(position: int) -> None:
    dialer, listener = established()
    data = bytearray(dialer.seal(b"hello, this is n1"))
    data[position] ^= 1
    with pytest.raises(AuthenticationError):
        # A changed length makes the listener wait for more.
        listener.receive(bytes(data) + dialer.seal(bytes(1000)))


def test_a_record_that_is_repeated_left_out_or_sent_back_ends_the_channel() -> None:
    dialer, listener = established()
    data = dialer.seal(b"hello")
    listener.receive(data)
    with pytest.raises(AuthenticationError):
        listener.receive(data)
    dialer, listener = established()
    dialer.seal(b"lost")
    with pytest.raises(AuthenticationError):
        listener.receive(dialer.seal(b"next"))
    dialer, listener = established()
    with pytest.raises(AuthenticationError):
        dialer.receive(dialer.seal(b"hello"))


def test_a_handshake_that_was_recorded_is_of_no_use() -> None:
    dialer, listener = dialing(), listening()
    hello = dialer.start()
    proof, _ = dialer.receive(listener.receive(hello)[0])
    replayed = listening()
    replayed.receive(hello)
    with pytest.raises(AuthenticationError):
        replayed.receive(proof)
    assert not replayed.is_established


def test_an_error_inside_of_admit_refuses_the_peer() -> None:
    def admit(chain: object) -> None:
        raise KeyError("certificate")

    listener = TlsChannel(node_context(MEMBERS["n2"]), admit, is_dialer=False)
    assert refusal(dialing(), listener) == "its certificate can not be read: KeyError"


def test_a_member_that_renews_its_key_is_let_in_by_both_and_then_by_the_new_one_only() -> None:
    old = MEMBERS["n1"]
    renewed = old.renewed(now_s=NOW_S)
    door = admittance("n2")
    fingerprints = {name: [identity.fingerprint] for name, identity in MEMBERS.items()}
    for allowed in ([old, renewed], [renewed]):
        door.set_members({**fingerprints, "n1": [identity.fingerprint for identity in allowed]})
        for identity in (old, renewed):
            listener = TlsChannel(node_context(MEMBERS["n2"]), door.who_dials, is_dialer=False)
            dialer = dialing(identity=identity)
            answer, _ = listener.receive(dialer.start())
            proof, _ = dialer.receive(answer)
            if identity in allowed:
                listener.receive(proof)
                assert listener.is_established
            else:
                with pytest.raises(AuthenticationError, match="revoked"):
                    listener.receive(proof)
