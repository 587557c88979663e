"""Login at the target: stages, keys, CHAP, and everything that is refused."""

from __future__ import annotations

import pytest

from csvd.iscsi import chap, text
from csvd.iscsi.access import Access
from csvd.iscsi.codes import LoginStatus, Opcode
from tests.iscsi_wire import INITIATOR, ISID, SECRET, TARGET, End, Pdu, Wire, pdu

NAMES = {"InitiatorName": INITIATOR, "SessionType": "Normal", "TargetName": TARGET}
CHAP = Access(credentials={"joe": chap.Credentials("joe", SECRET)})


def keys_of(answer: Pdu) -> dict[str, str]:
    return dict(text.parse(answer.data))


def test_one_request_from_operational_to_full_feature_logs_in() -> None:
    wire = Wire()
    answer = wire.connect().login()
    assert answer.status == LoginStatus.SUCCESS
    assert answer.flags == 0x87
    assert answer.tsih != 0
    assert keys_of(answer)["TargetPortalGroupTag"] == "1"
    assert keys_of(answer)["MaxRecvDataSegmentLength"] == "262144"
    assert len(wire.router.nexuses) == 1


def test_what_open_iscsi_offers_is_answered_key_by_key() -> None:
    answer = (
        Wire()
        .connect()
        .login(
            HeaderDigest="None",
            DataDigest="None",
            DefaultTime2Wait="2",
            DefaultTime2Retain="0",
            IFMarker="No",
            OFMarker="No",
            ErrorRecoveryLevel="0",
            InitialR2T="No",
            ImmediateData="Yes",
            MaxBurstLength="16776192",
            FirstBurstLength="262144",
            MaxOutstandingR2T="1",
            MaxConnections="1",
            DataPDUInOrder="Yes",
            DataSequenceInOrder="Yes",
            MaxRecvDataSegmentLength="262144",
        )
    )
    assert keys_of(answer) == {
        "TargetPortalGroupTag": "1",
        "HeaderDigest": "None",
        "DataDigest": "None",
        "DefaultTime2Wait": "2",
        "DefaultTime2Retain": "0",
        "IFMarker": "No",
        "OFMarker": "No",
        "ErrorRecoveryLevel": "0",
        "InitialR2T": "No",
        "ImmediateData": "Yes",
        "MaxBurstLength": "1048576",
        "FirstBurstLength": "262144",
        "MaxOutstandingR2T": "1",
        "MaxConnections": "1",
        "DataPDUInOrder": "Yes",
        "DataSequenceInOrder": "Yes",
        "MaxRecvDataSegmentLength": "262144",
    }


def test_an_unknown_key_is_not_understood_and_a_bad_value_is_rejected_and_login_goes_on() -> None:
    answer = Wire().connect().login(**{"X-com.example": "1", "InitialR2T": "Perhaps", "MaxBurstLength": "12"})
    assert answer.status == LoginStatus.SUCCESS
    keys = keys_of(answer)
    assert keys["X-com.example"] == "NotUnderstood"
    assert keys["InitialR2T"] == "Reject"
    assert keys["MaxBurstLength"] == "Reject"


def test_text_continued_over_requests_is_taken_as_one() -> None:
    end = Wire().connect()
    whole = text.build(NAMES.items())
    first = pdu(Opcode.LOGIN_REQUEST, whole[:20], opcode=0x43, flags=0x44, isid=ISID, cmd_sn=1)
    (answer,) = end.ask(first)
    assert (answer.status, answer.flags, answer.data) == (0, 0x04, b"")
    (answer,) = end.ask(pdu(Opcode.LOGIN_REQUEST, whole[20:], opcode=0x43, flags=0x87, isid=ISID, cmd_sn=1))
    assert answer.status == LoginStatus.SUCCESS
    assert answer.tsih


def login_in_steps(end: End, user: str = "joe", secret: bytes = SECRET, algorithms: str = "5") -> Pdu:
    (answer,) = end.ask(end.login_pdu(NAMES | {"AuthMethod": "CHAP,None"}, flags=0x81))
    assert keys_of(answer)["AuthMethod"] == "CHAP"
    assert not answer.flags & 0x80
    (answer,) = end.ask(end.login_pdu({"CHAP_A": algorithms}, flags=0x00))
    keys = keys_of(answer)
    reply = chap.response(
        chap.Algorithm(int(keys["CHAP_A"])), int(keys["CHAP_I"]), secret, chap.decode_binary(keys["CHAP_C"])
    )
    (answer,) = end.ask(end.login_pdu({"CHAP_N": user, "CHAP_R": chap.encode_binary(reply)}, flags=0x81))
    return answer


@pytest.mark.parametrize("algorithms", ["5", "7,5", "8", "99,5"])
def test_chap_with_the_right_secret_moves_on_to_the_operational_stage(algorithms: str) -> None:
    end = Wire(access=CHAP).connect()
    answer = login_in_steps(end, algorithms=algorithms)
    assert (answer.status, answer.flags) == (LoginStatus.SUCCESS, 0x81)
    (answer,) = end.ask(end.login_pdu({"InitialR2T": "No"}, flags=0x87))
    assert answer.status == LoginStatus.SUCCESS
    assert answer.tsih


@pytest.mark.parametrize(("user", "secret"), [("joe", b"another secret, as long"), ("jim", SECRET)])
def test_chap_with_a_wrong_secret_or_user_fails_and_closes(user: str, secret: bytes) -> None:
    end = Wire(access=CHAP).connect()
    answer = login_in_steps(end, user, secret)
    assert answer.status == LoginStatus.AUTHENTICATION_FAILURE
    assert end.engine.closing


def test_where_chap_is_demanded_nobody_comes_in_without() -> None:
    for flags, keys in ((0x87, NAMES), (0x81, NAMES), (0x81, NAMES | {"AuthMethod": "None"}), (0x83, NAMES)):
        wire = Wire(access=CHAP)
        end = wire.connect()
        (answer,) = end.ask(end.login_pdu(keys, flags=flags))
        assert answer.status == LoginStatus.AUTHENTICATION_FAILURE
        assert not wire.router.nexuses


def test_a_response_before_any_challenge_fails() -> None:
    end = Wire(access=CHAP).connect()
    end.ask(end.login_pdu(NAMES | {"AuthMethod": "CHAP"}, flags=0x00))
    (answer,) = end.ask(end.login_pdu({"CHAP_N": "joe", "CHAP_R": "0x00"}, flags=0x81))
    assert answer.status == LoginStatus.AUTHENTICATION_FAILURE


@pytest.mark.parametrize(
    ("keys", "flags", "fields", "status"),
    [
        ({"TargetName": TARGET}, 0x87, {}, LoginStatus.MISSING_PARAMETER),
        ({"InitiatorName": INITIATOR}, 0x87, {}, LoginStatus.MISSING_PARAMETER),
        (NAMES | {"TargetName": "iqn.2026-11.test:other"}, 0x87, {}, LoginStatus.NOT_FOUND),
        (NAMES | {"SessionType": "Odd"}, 0x87, {}, LoginStatus.SESSION_TYPE_NOT_SUPPORTED),
        (NAMES | {"InitiatorName": "not a name"}, 0x87, {}, LoginStatus.INITIATOR_ERROR),
        (NAMES, 0x87, {"version_min": 1}, LoginStatus.UNSUPPORTED_VERSION),
        (NAMES, 0x87, {"tsih": 7}, LoginStatus.SESSION_DOES_NOT_EXIST),
        (NAMES, 0xC7, {}, LoginStatus.INITIATOR_ERROR),
        (NAMES, 0x84, {}, LoginStatus.INITIATOR_ERROR),
        (NAMES, 0x8F, {}, LoginStatus.INITIATOR_ERROR),
        (NAMES, 0x08, {}, LoginStatus.INITIATOR_ERROR),
    ],
)
def test_a_login_that_breaks_the_rules_gets_its_status_and_is_closed(
    keys: dict[str, str], flags: int, fields: dict[str, int], status: LoginStatus
) -> None:
    end = Wire().connect()
    (answer,) = end.ask(end.login_pdu(keys, flags=flags, **fields))
    assert answer.status == status
    assert end.engine.closing


def test_an_initiator_that_is_not_on_the_list_is_refused() -> None:
    end = Wire(access=Access(initiators=frozenset({"iqn.2026-11.test:friend"}))).connect()
    assert end.login().status == LoginStatus.AUTHORIZATION_FAILURE


def test_login_text_without_end_is_cut_off() -> None:
    end = Wire().connect()
    for _ in range(3):
        end.feed(pdu(Opcode.LOGIN_REQUEST, b"A=" + b"x" * 8000, opcode=0x43, flags=0x44, isid=ISID))
    assert end.answers()[-1].status == LoginStatus.INITIATOR_ERROR
    assert end.engine.closing


def test_endless_empty_login_requests_are_cut_off() -> None:
    end = Wire().connect()
    end.feed(end.login_pdu(NAMES, flags=0x04) + end.login_pdu({}, flags=0x04) * 40)
    assert end.answers()[-1].status == LoginStatus.INITIATOR_ERROR


def test_anything_before_login_closes_without_an_answer() -> None:
    end = Wire().connect()
    assert end.ask(end.read(0, 1)) == []
    assert end.engine.closing


def test_no_login_in_time_closes() -> None:
    end = Wire().connect()
    end.engine.tick(14.0)
    assert not end.engine.closing
    end.engine.tick(16.0)
    assert end.engine.closing


def test_the_same_initiator_port_again_ends_its_old_session() -> None:
    wire = Wire()
    old, new = wire.connect(), wire.connect()
    assert old.login().status == LoginStatus.SUCCESS
    woken: list[bool] = []
    old.engine.wake = lambda: woken.append(True)
    assert new.login().status == LoginStatus.SUCCESS
    assert old.engine.closing
    assert woken
    assert len(wire.target.sessions) == 1
    assert len(wire.router.nexuses) == 1


def test_a_full_target_says_out_of_resources() -> None:
    wire = Wire()
    wire.target.max_sessions = 1
    wire.connect().login()
    end = wire.connect()
    (answer,) = end.ask(end.login_pdu(NAMES, isid=b"\x80\0\0\0\0\2"))
    assert answer.status == LoginStatus.OUT_OF_RESOURCES


def discover(end: End) -> None:
    keys = {"InitiatorName": INITIATOR, "SessionType": "Discovery", "MaxBurstLength": "65536"}
    (answer,) = end.ask(end.login_pdu(keys))
    assert answer.status == LoginStatus.SUCCESS
    assert keys_of(answer)["MaxBurstLength"] == "Irrelevant"


def test_discovery_names_the_target_at_the_address_that_was_asked() -> None:
    end = Wire().connect()
    discover(end)
    request = pdu(
        Opcode.TEXT_REQUEST,
        b"SendTargets=All\0",
        flags=0x80,
        initiator_task_tag=5,
        target_transfer_tag=0xFFFFFFFF,
        cmd_sn=1,
    )
    (answer,) = end.ask(request)
    assert text.parse(answer.data) == [("TargetName", TARGET), ("TargetAddress", "127.0.0.1:3260,1")]
    assert (answer.flags, answer.initiator_task_tag) == (0x80, 5)


def test_discovery_does_not_tell_of_a_target_that_would_not_let_the_initiator_in() -> None:
    end = Wire(access=Access(initiators=frozenset({"iqn.2026-11.test:friend"}))).connect()
    discover(end)
    request = pdu(Opcode.TEXT_REQUEST, b"SendTargets=All\0", flags=0x80, target_transfer_tag=0xFFFFFFFF, cmd_sn=1)
    (answer,) = end.ask(request)
    assert answer.data == b""


def test_a_scsi_command_in_a_discovery_session_is_rejected() -> None:
    end = Wire().connect()
    discover(end)
    (answer,) = end.ask(end.read(0, 1))
    assert answer.opcode == Opcode.REJECT
    assert answer.reason == 0x05
