from __future__ import annotations

import hashlib

import pytest

from csvd.errors import ConfigError
from csvd.iscsi.chap import Algorithm, Credentials
from csvd.iscsi.codes import LoginStatus, Opcode
from initiator.engine.login import MAX_ROUNDS
from initiator.engine.requests import ConnectionFailed, LoggedIn, Ping
from initiator.errors import (
    AuthenticationFailed,
    LoginRedirected,
    LoginRefused,
    ProtocolViolation,
    SessionClosed,
)
from tests.unit.initiator.target_script import (
    INITIATOR,
    ISID,
    TARGET,
    Pdu,
    Script,
    failure,
    logged_in,
    pdu,
    settings,
    small_offer,
)

JOE = Credentials("joe", b"opensesame12345")
SECURITY, SECURITY_DONE, OPERATIONAL, DONE = 0x00, 0x81, 0x04, 0x87


def chap_script(**changes: object) -> Script:
    return Script(settings(credentials=JOE, **changes))


def to_challenge(script: Script) -> Pdu:
    """Go to where the target sends its challenge; give the request that asks for it."""
    (first,) = script.sent()
    script.say(script.login_response(first, {"AuthMethod": "CHAP"}, SECURITY))
    (second,) = script.sent()
    assert second.keys == {"CHAP_A": "8,5,7"}
    return second


def test_without_credentials_the_first_request_goes_straight_to_the_operational_stage() -> None:
    (request,) = Script().sent()
    assert request.opcode is Opcode.LOGIN_REQUEST
    assert request.fields.opcode == 0x43, "immediate"
    assert request.flags == DONE
    assert (request.isid, request.tsih, request.cmd_sn) == (ISID, 0, 1)
    assert request.keys["InitiatorName"] == INITIATOR
    assert request.keys["TargetName"] == TARGET
    assert request.keys["SessionType"] == "Normal"
    assert request.keys["InitialR2T"] == "No"
    assert request.keys["HeaderDigest"] == "None"


def test_a_discovery_session_names_no_target_and_proposes_no_keys_of_data_transfer() -> None:
    (request,) = Script(settings(target_name="")).sent()
    assert request.keys["SessionType"] == "Discovery"
    assert not {"TargetName", "InitialR2T", "MaxBurstLength"} & request.keys.keys()


def test_the_outcome_is_what_the_target_answered() -> None:
    script = Script()
    (request,) = script.sent()
    answer = {
        "TargetPortalGroupTag": "3",
        "TargetAlias": "the disk",
        "MaxRecvDataSegmentLength": "65536",
        "InitialR2T": "No",
        "ImmediateData": "No",
        "MaxBurstLength": "131072",
        "FirstBurstLength": "4096",
        "DefaultTime2Wait": "5",
    }
    events = script.say(script.login_response(request, answer, tsih=0x1234))
    assert [type(event) for event in events] == [LoggedIn]
    session = script.engine.session
    assert (session.tsih, session.portal_group_tag, session.target_alias) == (0x1234, 3, "the disk")
    parameters = session.parameters
    assert parameters.max_recv_data_segment_length == 65536
    assert not parameters.initial_r2t
    assert not parameters.immediate_data
    assert (parameters.max_burst_length, parameters.first_burst_length) == (131072, 4096)
    assert parameters.default_time2wait == 5


def test_keys_left_unanswered_fall_to_what_is_safe_whatever_the_target_meant() -> None:
    parameters = logged_in({}).engine.session.parameters
    assert parameters.initial_r2t
    assert not parameters.immediate_data
    assert parameters.max_burst_length == 262144
    assert parameters.first_burst_length == 65536


def test_a_first_burst_is_never_longer_than_a_burst() -> None:
    parameters = logged_in({"MaxBurstLength": "1024", "FirstBurstLength": "4096"}).engine.session.parameters
    assert parameters.first_burst_length == 1024


@pytest.mark.parametrize(
    "keys",
    [
        {"MaxBurstLength": "16777215"},  # more than was proposed
        {"MaxBurstLength": "0"},
        {"MaxBurstLength": "many"},
        {"InitialR2T": "Perhaps"},
        {"DataPDUInOrder": "No"},  # we said Yes, and the rule is OR
        {"DataDigest": "CRC32C"},  # not proposed
        {"DefaultTime2Retain": "21"},  # the rule is the smaller, and we said 20
        {"ErrorRecoveryLevel": "2"},
        {"MaxConnections": "8"},
        {"MaxRecvDataSegmentLength": "3"},
        {"TargetPortalGroupTag": "65536"},
    ],
)
def test_an_answer_that_the_rules_do_not_allow_ends_the_login(keys: dict[str, str]) -> None:
    script = Script()
    (request,) = script.sent()
    assert isinstance(failure(script.say(script.login_response(request, keys))), ProtocolViolation)


def test_immediate_data_may_be_refused_but_not_forced() -> None:
    script = Script(settings(offer=small_offer(immediate_data=False)))
    (request,) = script.sent()
    events = script.say(script.login_response(request, {"ImmediateData": "Yes"}))
    assert isinstance(failure(events), ProtocolViolation)


def test_a_target_that_proposes_keys_itself_is_answered() -> None:
    script = Script()
    (first,) = script.sent()
    keys = {"X-org.example.thing": "1", "IFMarker": "Yes", "MaxRecvDataSegmentLength": "4096"}
    script.say(script.login_response(first, keys, OPERATIONAL))
    (second,) = script.sent()
    assert second.keys == {"X-org.example.thing": "NotUnderstood", "IFMarker": "No"}
    assert second.exp_stat_sn == 101
    script.say(script.login_response(second, {}))
    assert script.engine.session.parameters.max_recv_data_segment_length == 4096


def test_a_proposal_in_the_pdu_that_ends_the_login_is_a_violation_unless_its_answer_means_nothing() -> None:
    script = Script()
    (request,) = script.sent()
    script.say(script.login_response(request, {"X-org.example.thing": "1"}))
    assert script.engine.logged_in
    script = Script()
    (request,) = script.sent()
    assert isinstance(failure(script.say(script.login_response(request, {"IFMarker": "Yes"}))), ProtocolViolation)


def test_a_text_over_several_pdus_is_put_together() -> None:
    script = Script()
    script.sent()
    script.say(
        pdu(Opcode.LOGIN_RESPONSE, b"InitialR2", **script.numbers(), flags=0x44, isid=ISID, initiator_task_tag=1)
    )
    (more,) = script.sent()
    assert (more.data, more.flags) == (b"", OPERATIONAL)
    script.say(
        pdu(Opcode.LOGIN_RESPONSE, b"T=No\0", **script.numbers(), flags=DONE, isid=ISID, tsih=1, initiator_task_tag=1)
    )
    assert script.engine.logged_in
    assert not script.engine.session.parameters.initial_r2t


def test_our_own_text_is_cut_into_pdus_with_the_continue_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("initiator.engine.login.LOGIN_SEGMENT_BYTES", 200)
    script = Script()
    whole = b""
    for _ in range(10):
        (request,) = script.sent()
        whole += request.data
        if request.flags == DONE:
            break
        assert request.flags == 0x44
        assert len(request.data) == 200
        script.say(script.login_response(request, {}, OPERATIONAL))
    assert whole.startswith(b"InitiatorName=")
    assert whole.endswith(b"DataSequenceInOrder=Yes\0")
    script.say(script.login_response(request, {}))
    assert script.engine.logged_in


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_chap_answers_the_challenge_with_the_hash_that_the_target_chose(algorithm: Algorithm) -> None:
    script = chap_script()
    (first,) = script.sent()
    assert first.flags == SECURITY
    assert first.keys["AuthMethod"] == "CHAP,None"
    assert "MaxBurstLength" not in first.keys
    script.say(script.login_response(first, {"AuthMethod": "CHAP", "TargetPortalGroupTag": "1"}, SECURITY))
    (second,) = script.sent()
    assert second.keys == {"CHAP_A": "8,5,7"}
    keys = {"CHAP_A": str(int(algorithm)), "CHAP_I": "0x17", "CHAP_C": "0x00112233445566778899aabbccddeeff"}
    script.say(script.login_response(second, keys, SECURITY))
    (third,) = script.sent()
    assert third.flags == SECURITY_DONE
    name = {5: "md5", 7: "sha256", 8: "sha3_256"}[int(algorithm)]
    want = hashlib.new(name, b"\x17" + JOE.secret + bytes.fromhex("00112233445566778899aabbccddeeff")).hexdigest()
    assert third.keys == {"CHAP_N": "joe", "CHAP_R": "0x" + want}
    script.say(script.login_response(third, {}, SECURITY_DONE))
    (fourth,) = script.sent()
    assert fourth.flags == DONE
    assert "MaxBurstLength" in fourth.keys
    assert {request.initiator_task_tag for request in (first, second, third, fourth)} == {1}
    script.say(script.login_response(fourth, {}))
    assert script.engine.logged_in


def test_a_target_that_wants_no_proof_is_not_given_one() -> None:
    script = chap_script()
    (first,) = script.sent()
    script.say(script.login_response(first, {"AuthMethod": "None"}, SECURITY))
    (second,) = script.sent()
    assert (second.flags, second.data) == (SECURITY_DONE, b"")
    script.say(script.login_response(second, {}, SECURITY_DONE))
    (third,) = script.sent()
    assert third.flags == DONE


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"CHAP_A": "5", "CHAP_I": "1"},
        {"CHAP_A": "6", "CHAP_I": "1", "CHAP_C": "0x00112233"},  # SHA-1 was not offered
        {"CHAP_A": "5", "CHAP_I": "256", "CHAP_C": "0x00112233"},
        {"CHAP_A": "5", "CHAP_I": "x", "CHAP_C": "0x00112233"},
        {"CHAP_A": "5", "CHAP_I": "1", "CHAP_C": "0x"},
        {"CHAP_A": "5", "CHAP_I": "1", "CHAP_C": "0x" + "00" * 1025},
    ],
)
def test_a_broken_challenge_ends_the_login(keys: dict[str, str]) -> None:
    script = chap_script()
    request = to_challenge(script)
    events = script.say(script.login_response(request, keys, SECURITY))
    assert isinstance(failure(events), ProtocolViolation)


def test_an_unknown_method_is_an_authentication_failure() -> None:
    script = chap_script()
    (first,) = script.sent()
    assert isinstance(
        failure(script.say(script.login_response(first, {"AuthMethod": "KRB5"}, SECURITY))), AuthenticationFailed
    )


def test_a_target_that_skips_the_proof_that_it_asked_for_is_not_believed() -> None:
    script = chap_script()
    (first,) = script.sent()
    events = script.say(script.login_response(first, {"AuthMethod": "CHAP"}, SECURITY_DONE))
    assert isinstance(failure(events), ProtocolViolation)


DISK = Credentials("disk", b"what the disk knows")
OURS = bytes(range(17))


def proof(secret: bytes = DISK.secret) -> str:
    return "0x" + hashlib.md5(OURS[:1] + secret + OURS[1:]).hexdigest()


def to_proof(script: Script) -> Pdu:
    """Go to where the target has to prove itself; give the request that asks for it."""
    (first,) = script.sent()
    assert first.keys["AuthMethod"] == "CHAP", "None is not good enough"
    script.say(script.login_response(first, {"AuthMethod": "CHAP"}, SECURITY))
    (second,) = script.sent()
    keys = {"CHAP_A": "5", "CHAP_I": "1", "CHAP_C": "0x00112233445566778899aabbccddeeff"}
    script.say(script.login_response(second, keys, SECURITY))
    (third,) = script.sent()
    assert (third.keys["CHAP_I"], third.keys["CHAP_C"]) == ("0", "0x" + OURS[1:].hex())
    return third


def test_a_target_proves_itself_and_the_login_goes_on() -> None:
    script = chap_script(target_credentials=DISK, target_challenge=OURS)
    keys = {"CHAP_N": "disk", "CHAP_R": proof()}
    script.say(script.login_response(to_proof(script), keys, SECURITY_DONE))
    (fourth,) = script.sent()
    assert fourth.flags == DONE
    script.say(script.login_response(fourth, {}))
    assert script.engine.logged_in


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"CHAP_N": "disk"},
        {"CHAP_R": proof()},
        {"CHAP_N": "disk", "CHAP_R": proof(b"another secret")},
        {"CHAP_N": "floppy", "CHAP_R": proof()},
    ],
)
@pytest.mark.parametrize("flags", [SECURITY, SECURITY_DONE])
def test_a_target_that_does_not_prove_itself_is_told_nothing_more(keys: dict[str, str], flags: int) -> None:
    script = chap_script(target_credentials=DISK, target_challenge=OURS)
    events = script.say(script.login_response(to_proof(script), keys, flags))
    assert isinstance(failure(events), AuthenticationFailed)
    assert script.sent() == []


def test_a_target_that_sends_our_own_challenge_is_not_answered() -> None:
    script = chap_script(target_credentials=DISK, target_challenge=OURS)
    (first,) = script.sent()
    script.say(script.login_response(first, {"AuthMethod": "CHAP"}, SECURITY))
    (second,) = script.sent()
    keys = {"CHAP_A": "5", "CHAP_I": "0", "CHAP_C": "0x" + OURS[1:].hex()}
    assert isinstance(failure(script.say(script.login_response(second, keys, SECURITY))), ProtocolViolation)


@pytest.mark.parametrize(
    "wrong",
    [
        {"credentials": None},
        {"target_credentials": Credentials("disk", JOE.secret)},
        {"target_challenge": b""},
    ],
)
def test_settings_of_mutual_chap_that_prove_nothing_are_refused(wrong: dict[str, object]) -> None:
    right: dict[str, object] = {"credentials": JOE, "target_credentials": DISK, "target_challenge": OURS}
    settings(**right)
    with pytest.raises(ConfigError):
        settings(**(right | wrong))


def test_secrets_stand_in_no_error_and_no_repr() -> None:
    script = chap_script()
    assert "opensesame" not in repr(settings(credentials=JOE))
    (first,) = script.sent()
    events = script.say(script.login_response(first, {}, SECURITY, status=LoginStatus.AUTHENTICATION_FAILURE))
    assert "opensesame" not in str(failure(events))


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (LoginStatus.AUTHENTICATION_FAILURE, AuthenticationFailed),
        (LoginStatus.NOT_FOUND, LoginRefused),
        (LoginStatus.SERVICE_UNAVAILABLE, LoginRefused),
        (0x0999, LoginRefused),
    ],
)
def test_a_refused_login_carries_its_status(status: int, kind: type[LoginRefused]) -> None:
    script = Script()
    (request,) = script.sent()
    error = failure(script.say(script.login_response(request, {}, 0x04, status=status)))
    assert type(error) is kind
    assert isinstance(error, LoginRefused)
    assert error.status == status


def test_a_redirect_carries_the_address() -> None:
    script = Script()
    (request,) = script.sent()
    keys = {"TargetAddress": "192.0.2.9:3261,1"}
    error = failure(script.say(script.login_response(request, keys, 0x04, status=0x0101)))
    assert isinstance(error, LoginRedirected)
    assert error.address == "192.0.2.9:3261,1"


def test_a_redirect_to_nowhere_is_a_violation() -> None:
    script = Script()
    (request,) = script.sent()
    assert isinstance(failure(script.say(script.login_response(request, {}, 0x04, status=0x0101))), ProtocolViolation)


@pytest.mark.parametrize(
    "fields",
    [
        {"tsih": 0},
        {"initiator_task_tag": 99},
        {"isid": bytes(6)},
        {"version_active": 1},
        {"flags": 0x85},  # next stage 1
        {"flags": 0x83},  # current stage 0
        {"flags": 0xC7},  # last and more to come
        {"exp_cmd_sn": 50},
    ],
)
def test_a_login_response_that_contradicts_the_request_ends_it(fields: dict[str, int]) -> None:
    script = Script()
    (request,) = script.sent()
    assert isinstance(failure(script.say(script.login_response(request, {}, **fields))), ProtocolViolation)


def test_a_login_without_end_is_cut_off() -> None:
    script = Script()
    for _ in range(MAX_ROUNDS):
        (request,) = script.sent()
        assert script.say(script.login_response(request, {}, OPERATIONAL)) == []
    events = script.say(script.login_response(request, {}, OPERATIONAL))
    assert isinstance(failure(events), ProtocolViolation)


def test_text_without_end_is_cut_off() -> None:
    script = Script()
    for _ in range(9):
        script.sent()
        flood = pdu(Opcode.LOGIN_RESPONSE, b"a" * 8192, **script.numbers(), flags=0x44, isid=ISID, initiator_task_tag=1)
        events = script.say(flood)
        if events:
            break
    assert isinstance(failure(events), ProtocolViolation)


@pytest.mark.parametrize("data", [b"InitialR2T", b"=No\0", b"InitialR2T=No\0InitialR2T=No\0", b"A=\xff\0"])
def test_text_that_is_no_text_ends_the_login(data: bytes) -> None:
    script = Script()
    (request,) = script.sent()
    response = script.login_response(request, {})
    response = response[:4] + len(data).to_bytes(4, "big") + response[8:48] + data + bytes(-len(data) % 4)
    assert isinstance(failure(script.say(response)), ProtocolViolation)


def test_another_pdu_during_the_login_ends_it() -> None:
    script = Script()
    assert isinstance(failure(script.say_more(Opcode.NOP_IN)), ProtocolViolation)


def test_more_than_8192_bytes_of_login_data_are_not_taken() -> None:
    script = Script()
    assert isinstance(failure(script.say_more(Opcode.LOGIN_RESPONSE, bytes(8196))), ProtocolViolation)


def test_a_login_response_in_the_full_feature_phase_ends_the_connection() -> None:
    script = logged_in()
    assert isinstance(failure(script.say_more(Opcode.LOGIN_RESPONSE)), ProtocolViolation)


def test_after_the_failure_nothing_is_taken_and_nothing_sent() -> None:
    script = Script()
    script.say_more(Opcode.NOP_IN)
    assert script.say_more(Opcode.NOP_IN) == []
    assert script.sent() == []
    with pytest.raises(SessionClosed):
        script.engine.send(Ping())


def test_no_request_is_taken_before_the_login_is_done() -> None:
    with pytest.raises(SessionClosed):
        Script().engine.send(Ping())


def test_a_failed_login_is_one_event() -> None:
    script = Script()
    events = script.say(b"\x3f" * 480)
    assert [type(event) for event in events] == [ConnectionFailed]
