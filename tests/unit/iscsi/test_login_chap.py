"""CHAP: one way, both ways, and what an attacker would send."""

from __future__ import annotations

import hashlib

import pytest

from csvd.errors import ConfigError
from csvd.iscsi import chap, text
from csvd.iscsi.access import Access, InitiatorRule
from csvd.iscsi.chap import Algorithm, Credentials
from csvd.iscsi.codes import LoginStatus
from tests.iscsi_wire import INITIATOR, SECRET, TARGET, End, Pdu, Wire

NAMES = {"InitiatorName": INITIATOR, "SessionType": "Normal", "TargetName": TARGET}
JOE = Credentials("joe", SECRET)
PROOF = Credentials("the target", b"what the target knows")
ONE_WAY = Access(credentials={"joe": JOE})
MUTUAL = Access(credentials={"joe": JOE}, proof=PROOF)
CHALLENGE = bytes(range(100, 132))


def keys_of(answer: Pdu) -> dict[str, str]:
    return dict(text.parse(answer.data))


def challenged(end: End, algorithms: str = "5", names: dict[str, str] = NAMES) -> dict[str, str]:
    """Go to where the target has sent its challenge."""
    (answer,) = end.ask(end.login_pdu(names | {"AuthMethod": "CHAP"}, flags=0x81))
    assert (answer.status, answer.flags) == (LoginStatus.SUCCESS, 0x00)
    (answer,) = end.ask(end.login_pdu({"CHAP_A": algorithms}, flags=0x00))
    assert answer.status == LoginStatus.SUCCESS
    return keys_of(answer)


def response(asked: dict[str, str], secret: bytes = SECRET) -> str:
    challenge = chap.decode_binary(asked["CHAP_C"])
    digest = chap.response(Algorithm(int(asked["CHAP_A"])), int(asked["CHAP_I"]), secret, challenge)
    return chap.encode_binary(digest)


def prove(end: End, asked: dict[str, str], **more: str) -> Pdu:
    keys = {"CHAP_N": "joe", "CHAP_R": response(asked)} | more
    (answer,) = end.ask(end.login_pdu(keys, flags=0x81))
    return answer


OURS = {"CHAP_I": "200", "CHAP_C": chap.encode_binary(CHALLENGE)}


@pytest.mark.parametrize(("number", "name", "size"), [("5", "md5", 16), ("7", "sha256", 32), ("8", "sha3_256", 32)])
def test_a_target_that_is_asked_proves_itself_by_its_own_name_and_secret(number: str, name: str, size: int) -> None:
    end = Wire(access=MUTUAL).connect()
    asked = challenged(end, number)
    assert len(chap.decode_binary(asked["CHAP_C"])) == size
    answer = prove(end, asked, **OURS)
    assert (answer.status, answer.flags) == (LoginStatus.SUCCESS, 0x81)
    keys = keys_of(answer)
    assert keys["CHAP_N"] == PROOF.user
    assert chap.decode_binary(keys["CHAP_R"]) == hashlib.new(name, bytes([200]) + PROOF.secret + CHALLENGE).digest()
    (answer,) = end.ask(end.login_pdu({}))
    assert answer.tsih
    assert end.engine.session is not None
    assert end.engine.session.proven == JOE


def test_the_numbers_are_those_that_iana_has_registered() -> None:
    assert {int(algorithm) for algorithm in Algorithm} == {5, 7, 8}
    assert chap.choose_algorithm("6") is None, "SHA-1"
    assert chap.choose_algorithm("6,8,5") is Algorithm.SHA3_256


def test_an_algorithm_that_is_not_taken_here_is_not_chosen() -> None:
    end = Wire(access=Access(credentials={"joe": JOE}, algorithms=(Algorithm.SHA256,))).connect()
    assert challenged(end, "5,8,7")["CHAP_A"] == "7"
    end = Wire(access=Access(credentials={"joe": JOE}, algorithms=(Algorithm.SHA256,))).connect()
    end.ask(end.login_pdu(NAMES | {"AuthMethod": "CHAP"}, flags=0x81))
    (answer,) = end.ask(end.login_pdu({"CHAP_A": "5"}, flags=0x00))
    assert answer.status == LoginStatus.AUTHENTICATION_FAILURE


def test_a_target_without_a_secret_of_its_own_fails_a_login_that_asks_for_it() -> None:
    end = Wire(access=ONE_WAY).connect()
    answer = prove(end, challenged(end), **OURS)
    assert answer.status == LoginStatus.AUTHENTICATION_FAILURE
    assert answer.data == b""


def test_the_targets_own_challenge_sent_back_is_not_answered() -> None:
    end = Wire(access=MUTUAL).connect()
    asked = challenged(end)
    answer = prove(end, asked, CHAP_I=asked["CHAP_I"], CHAP_C=asked["CHAP_C"])
    assert answer.status == LoginStatus.AUTHENTICATION_FAILURE
    assert answer.data == b""


def test_who_has_not_proved_himself_gets_no_proof() -> None:
    end = Wire(access=MUTUAL).connect()
    asked = challenged(end)
    keys = {"CHAP_N": "joe", "CHAP_R": response(asked, b"a guess, of some length")} | OURS
    (answer,) = end.ask(end.login_pdu(keys, flags=0x81))
    assert answer.status == LoginStatus.AUTHENTICATION_FAILURE
    assert answer.data == b""


def test_one_secret_for_both_directions_is_refused_when_it_is_configured() -> None:
    with pytest.raises(ConfigError, match="direction"):
        Access(credentials={"joe": JOE}, proof=Credentials("the target", SECRET))
    with pytest.raises(ConfigError, match="'ann'"):
        Access(
            credentials={"joe": JOE},
            proof=PROOF,
            rules={INITIATOR: InitiatorRule(credentials={"ann": Credentials("ann", PROOF.secret)})},
        )


@pytest.mark.parametrize(
    "keys",
    [
        {"CHAP_I": "200"},
        {"CHAP_C": OURS["CHAP_C"]},
        {"CHAP_I": "256", "CHAP_C": OURS["CHAP_C"]},
        {"CHAP_I": "one", "CHAP_C": OURS["CHAP_C"]},
        {"CHAP_I": "200", "CHAP_C": "0x"},
        {"CHAP_I": "200", "CHAP_C": "0x" + "00" * 1025},
        {"CHAP_I": "200", "CHAP_C": "secret"},
    ],
)
def test_a_challenge_of_the_initiator_that_is_none_fails(keys: dict[str, str]) -> None:
    end = Wire(access=MUTUAL).connect()
    assert prove(end, challenged(end), **keys).status == LoginStatus.AUTHENTICATION_FAILURE


@pytest.mark.parametrize(
    "value",
    [
        "0x" + "ff" * 1024,
        "0x" + "ff" * 1025,
        "0x" + "f" * 8100,
        "0b" + "/" * 1364 + "=",
        "0b" + "/" * 8100,
        "0b====",
        "0b" + "A" * 5,
        "0x",
        "0b",
        "",
        "0xzz",
        "0x" + " 1" * 16,
        "00" * 16,
        "\N{FULLWIDTH DIGIT ZERO}x00",
    ],
)
def test_a_response_that_is_too_long_or_malformed_fails_as_a_wrong_one(value: str) -> None:
    end = Wire(access=ONE_WAY).connect()
    challenged(end)
    (answer,) = end.ask(end.login_pdu({"CHAP_N": "joe", "CHAP_R": value}, flags=0x81))
    assert answer.status == LoginStatus.AUTHENTICATION_FAILURE
    assert end.engine.closing


def test_a_response_in_base64_is_as_good_as_one_in_hex() -> None:
    import base64

    end = Wire(access=ONE_WAY).connect()
    digest = chap.decode_binary(response(challenged(end)))
    keys = {"CHAP_N": "joe", "CHAP_R": "0b" + base64.b64encode(digest).decode()}
    (answer,) = end.ask(end.login_pdu(keys, flags=0x81))
    assert answer.status == LoginStatus.SUCCESS


def test_a_challenge_is_answered_once() -> None:
    end = Wire(access=ONE_WAY).connect()
    asked = challenged(end)
    assert prove(end, asked).status == LoginStatus.SUCCESS
    (answer,) = end.ask(end.login_pdu({"CHAP_N": "joe", "CHAP_R": response(asked)}, flags=0x81))
    assert answer.status != LoginStatus.SUCCESS


def test_a_second_challenge_is_not_to_be_had() -> None:
    end = Wire(access=ONE_WAY).connect()
    challenged(end)
    (answer,) = end.ask(end.login_pdu({"CHAP_A": "5"}, flags=0x00))
    assert answer.status == LoginStatus.AUTHENTICATION_FAILURE


def test_every_challenge_asks_for_fresh_entropy() -> None:
    wire = Wire(access=ONE_WAY)
    given = iter(range(1, 100))
    wire.entity.entropy = lambda count: bytes([next(given)]) * count
    first, second = challenged(wire.connect()), challenged(wire.connect())
    assert first["CHAP_C"] != second["CHAP_C"]
    assert first["CHAP_I"] != second["CHAP_I"]


def test_no_secret_stands_in_what_is_logged_or_shown() -> None:
    wire = Wire(access=MUTUAL)
    end = wire.connect()
    asked = challenged(end)
    end.ask(end.login_pdu({"CHAP_N": "joe", "CHAP_R": response(asked, b"not the secret of joe")}, flags=0x81))
    shown = " ".join((*map(str, end.engine.events), repr(end.engine), repr(wire.target.access), repr(JOE)))
    assert SECRET.decode() not in shown
    assert PROOF.secret.decode() not in shown
    assert "CHAP failed for user 'joe'" in shown


def test_a_secret_sent_in_the_place_of_a_response_is_not_logged() -> None:
    end = Wire(access=ONE_WAY).connect()
    challenged(end)
    end.ask(end.login_pdu({"CHAP_N": "joe", "CHAP_R": SECRET.decode()}, flags=0x81))
    assert end.engine.closing
    assert SECRET.decode() not in " ".join(map(str, end.engine.events))


def test_discovery_has_credentials_of_its_own() -> None:
    wire = Wire(access=ONE_WAY)
    ann = Credentials("ann", b"only for discovery")
    wire.entity.discovery_access = Access(credentials={"ann": ann})
    names = {"InitiatorName": INITIATOR, "SessionType": "Discovery"}
    for user, secret, status in (
        ("ann", ann.secret, LoginStatus.SUCCESS),
        ("joe", SECRET, LoginStatus.AUTHENTICATION_FAILURE),
    ):
        end = wire.connect()
        asked = challenged(end, names=names)
        (answer,) = end.ask(end.login_pdu({"CHAP_N": user, "CHAP_R": response(asked, secret)}, flags=0x81))
        assert answer.status == status


def test_an_initiator_with_credentials_of_its_own_can_not_use_those_of_all() -> None:
    ann = Credentials("ann", b"for one initiator alone")
    access = Access(credentials={"joe": JOE}, rules={INITIATOR: InitiatorRule(credentials={"ann": ann})})
    end = Wire(access=access).connect()
    assert prove(end, challenged(end)).status == LoginStatus.AUTHENTICATION_FAILURE
    end = Wire(access=access).connect()
    asked = challenged(end)
    (answer,) = end.ask(end.login_pdu({"CHAP_N": "ann", "CHAP_R": response(asked, ann.secret)}, flags=0x81))
    assert answer.status == LoginStatus.SUCCESS


def test_an_initiator_whose_rule_asks_for_no_chap_comes_in_without() -> None:
    access = Access(credentials={"joe": JOE}, rules={INITIATOR: InitiatorRule(credentials={})})
    assert Wire(access=access).connect().login().status == LoginStatus.SUCCESS
    other = NAMES | {"InitiatorName": "iqn.2026-11.test:other"}
    end = Wire(access=access).connect()
    (answer,) = end.ask(end.login_pdu(other))
    assert answer.status == LoginStatus.AUTHENTICATION_FAILURE
