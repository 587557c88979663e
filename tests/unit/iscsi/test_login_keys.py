"""The keys of RFC 7143 section 13, one by one, and text that is too long for one PDU."""

from __future__ import annotations

from dataclasses import replace

import pytest

from csvd.iscsi import text
from csvd.iscsi.codes import LoginStatus, Opcode
from csvd.iscsi.keys import KEYS, BadValue, Rule, parse_number
from csvd.iscsi.node import TARGET_OFFER
from tests.iscsi_wire import INITIATOR, ISID, TARGET, End, Pdu, Wire, pdu

NAMES = {"InitiatorName": INITIATOR, "SessionType": "Normal", "TargetName": TARGET}
NO_TAG = 0xFFFFFFFF


def keys_of(answer: Pdu) -> dict[str, str]:
    return dict(text.parse(answer.data))


def answer_to(name: str, value: str) -> str | None:
    """What a target answers to one key in a login that succeeds."""
    answer = Wire(offer=TARGET_OFFER).connect().login(**{name: value})
    assert answer.status == LoginStatus.SUCCESS
    return keys_of(answer).get(name)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        # List: the first of the initiator's that the target has.
        ("HeaderDigest", "CRC32C,None", "CRC32C"),
        ("HeaderDigest", "None,CRC32C", "None"),
        ("DataDigest", "X#vendor,None", "None"),
        ("DataDigest", "MD5", "Reject"),
        ("TaskReporting", "RFC3720", "RFC3720"),
        # Numerical: the smaller, but for the time to wait.
        ("MaxConnections", "16", "8"),
        ("MaxConnections", "2", "2"),
        ("MaxBurstLength", "0x10000", "65536"),
        ("MaxBurstLength", "16777216", "Reject"),
        ("FirstBurstLength", "512", "512"),
        ("FirstBurstLength", "511", "Reject"),
        ("DefaultTime2Wait", "20", "20"),
        ("DefaultTime2Wait", "0", "0"),
        ("DefaultTime2Retain", "3600", "20"),
        ("DefaultTime2Retain", "3601", "Reject"),
        ("MaxOutstandingR2T", "65535", "1"),
        ("MaxOutstandingR2T", "0", "Reject"),
        ("ErrorRecoveryLevel", "2", "0"),
        ("iSCSIProtocolLevel", "1", "1"),
        ("iSCSIProtocolLevel", "2", "2"),
        ("iSCSIProtocolLevel", "31", "2"),
        ("iSCSIProtocolLevel", "32", "Reject"),
        # Boolean OR, boolean AND.
        ("InitialR2T", "Yes", "Yes"),
        ("InitialR2T", "No", "No"),
        ("ImmediateData", "No", "No"),
        ("DataPDUInOrder", "No", "Yes"),
        ("DataSequenceInOrder", "No", "Yes"),
        ("ImmediateData", "yes", "Reject"),
        # Obsolete (section 13.25).
        ("IFMarker", "Yes", "No"),
        ("OFMarker", "No", "No"),
        ("IFMarkInt", "2048~8192", "Reject"),
        ("OFMarkInt", "2048", "Reject"),
        # Declared by the initiator: nobody answers.
        ("InitiatorAlias", "the one in the cellar", None),
        ("X-NodeArchitecture", "Linux x86_64", None),
        # The target's to declare, or not a key of the login at all.
        ("TargetAlias", "mine", "Reject"),
        ("TargetPortalGroupTag", "3", "1"),
        ("TargetAddress", "192.0.2.1", "Reject"),
        ("SendTargets", "All", "Reject"),
        # Unknown, of a vendor or not.
        ("X-com.example.thing", "7", "NotUnderstood"),
        ("Frobnicate", "Yes", "NotUnderstood"),
        ("AuthMethod", "None", "Reject"),
    ],
)
def test_each_key_is_settled_by_its_rule(name: str, value: str, expected: str | None) -> None:
    assert answer_to(name, value) == expected


def test_every_key_of_the_standard_has_a_row() -> None:
    section_13 = {
        *("HeaderDigest", "DataDigest", "MaxConnections", "SendTargets", "TargetName", "InitiatorName", "TargetAlias"),
        *("InitiatorAlias", "TargetAddress", "TargetPortalGroupTag", "InitialR2T", "ImmediateData"),
        *("MaxRecvDataSegmentLength", "MaxBurstLength", "FirstBurstLength", "DefaultTime2Wait", "DefaultTime2Retain"),
        *("MaxOutstandingR2T", "DataPDUInOrder", "DataSequenceInOrder", "ErrorRecoveryLevel", "SessionType"),
        *("TaskReporting", "iSCSIProtocolLevel", "X-NodeArchitecture", "IFMarker", "OFMarker", "IFMarkInt"),
        "OFMarkInt",
    }
    assert section_13 <= KEYS.keys()


@pytest.mark.parametrize("value", ["Reject", "Irrelevant", "NotUnderstood"])
def test_a_key_that_an_initiator_gives_no_value_for_stays_at_its_default(value: str) -> None:
    end = Wire().connect()
    assert "MaxBurstLength" not in keys_of(end.login(MaxBurstLength=value))
    assert end.engine.session is not None
    assert end.engine.session.parameters.max_burst_length == 262144


@pytest.mark.parametrize("value", ["512", "16777215", "0x200"])
def test_what_the_initiator_takes_in_a_pdu_is_declared_and_not_answered(value: str) -> None:
    end = Wire().connect()
    # The only one in the answer is the target's own.
    assert keys_of(end.login(MaxRecvDataSegmentLength=value))["MaxRecvDataSegmentLength"] == "262144"
    assert end.engine.parameters.max_recv_data_segment_length == int(value, 0)


@pytest.mark.parametrize("name", sorted(name for name, key in KEYS.items() if key.normal_only))
def test_keys_of_data_transfer_are_irrelevant_in_discovery(name: str) -> None:
    value = {Rule.LIST: "RFC3720", Rule.AND: "Yes", Rule.OR: "Yes"}.get(KEYS[name].rule, "1")
    end = Wire().connect()
    keys = {"InitiatorName": INITIATOR, "SessionType": "Discovery", name: value}
    (answer,) = end.ask(end.login_pdu(keys))
    assert answer.status == LoginStatus.SUCCESS
    assert keys_of(answer)[name] == "Irrelevant"


@pytest.mark.parametrize("value", ["", "+1", "-1", " 1", "1 ", "1\n", "1_0", "0x", "0xg", "1" * 21, "\u0661", "0b1"])
def test_what_is_not_a_number_is_none(value: str) -> None:
    with pytest.raises(BadValue):
        parse_number(value)


def test_a_value_above_255_bytes_is_rejected_where_the_standard_allows_no_longer_one() -> None:
    assert answer_to("HeaderDigest", "None," * 60 + "None") == "Reject"
    assert answer_to("X-com.example", "x" * 4000) == "NotUnderstood"


def test_a_key_that_was_settled_in_the_security_stage_can_not_be_opened_again() -> None:
    end = Wire().connect()
    (answer,) = end.ask(end.login_pdu(NAMES | {"AuthMethod": "None", "InitialR2T": "No"}, flags=0x81))
    assert keys_of(answer)["InitialR2T"] == "No"
    (answer,) = end.ask(end.login_pdu({"InitialR2T": "Yes"}))
    assert answer.status == LoginStatus.INITIATOR_ERROR


def test_names_said_once_more_are_passed_over_and_another_name_ends_the_login() -> None:
    for keys, status in (
        (NAMES, LoginStatus.SUCCESS),
        (NAMES | {"TargetName": "iqn.2026-11.test:other"}, LoginStatus.INITIATOR_ERROR),
    ):
        end = Wire().connect()
        end.ask(end.login_pdu(NAMES | {"AuthMethod": "None"}, flags=0x81))
        (answer,) = end.ask(end.login_pdu(keys | {"InitialR2T": "No"}))
        assert answer.status == status
        assert not {"InitiatorName", "TargetName", "SessionType"} & keys_of(answer).keys()


def test_the_alias_of_the_target_is_in_the_first_answer_and_in_no_other() -> None:
    wire = Wire()
    wire.target.alias = "the disk of the shop"
    end = wire.connect(portal_group_tag=7)
    (first,) = end.ask(end.login_pdu(NAMES | {"AuthMethod": "None"}, flags=0x81))
    assert keys_of(first)["TargetAlias"] == "the disk of the shop"
    assert keys_of(first)["TargetPortalGroupTag"] == "7"
    (second,) = end.ask(end.login_pdu({}))
    assert not {"TargetAlias", "TargetPortalGroupTag"} & keys_of(second).keys()


MANY = {f"X-com.example.{number:03}{'x' * 40}": "1" for number in range(124)}


def long_request(end: End) -> Pdu:
    """Send so many keys that their answers need two PDUs; give the first of them."""
    whole = text.build((NAMES | MANY).items())
    (answer,) = end.ask(pdu(Opcode.LOGIN_REQUEST, whole[:8000], opcode=0x43, flags=0x44, isid=ISID, cmd_sn=1))
    assert (answer.flags, answer.data) == (0x04, b"")
    (answer,) = end.ask(pdu(Opcode.LOGIN_REQUEST, whole[8000:], opcode=0x43, flags=0x87, isid=ISID, cmd_sn=1))
    assert answer.status == LoginStatus.SUCCESS
    assert answer.flags == 0x44
    assert len(answer.data) == 8192
    assert answer.tsih == 0
    return answer


def test_an_answer_above_8192_bytes_comes_in_parts_and_the_last_one_ends_the_login() -> None:
    end = Wire().connect()
    first = long_request(end)
    (second,) = end.ask(end.login_pdu({}))
    assert second.flags == 0x87
    assert second.tsih
    assert second.stat_sn == first.stat_sn + 1
    keys = dict(text.parse(first.data + second.data))
    assert MANY.keys() <= keys.keys()
    assert {keys[name] for name in MANY} == {"NotUnderstood"}


def test_an_initiator_that_fetches_without_the_t_bit_asks_for_the_transit_once_more() -> None:
    end = Wire().connect()
    long_request(end)
    (second,) = end.ask(end.login_pdu({}, flags=0x04))
    assert (second.flags, second.tsih) == (0x04, 0)
    (third,) = end.ask(end.login_pdu({}))
    assert third.flags == 0x87
    assert third.tsih


def test_text_before_the_last_answer_was_fetched_ends_the_login() -> None:
    end = Wire().connect()
    long_request(end)
    (answer,) = end.ask(end.login_pdu({"InitialR2T": "No"}))
    assert answer.status == LoginStatus.INITIATOR_ERROR


def text_request(end: End, pairs: dict[str, str], **fields: int) -> Pdu:
    values = {"opcode": 0x44, "flags": 0x80, "initiator_task_tag": 5, "target_transfer_tag": NO_TAG} | fields
    (answer,) = end.ask(pdu(Opcode.TEXT_REQUEST, text.build(pairs.items()), **values))
    return answer


def test_an_initiator_may_declare_another_segment_length_after_its_login() -> None:
    end = Wire().connect()
    end.login()
    answer = text_request(end, {"MaxRecvDataSegmentLength": "1024", "InitiatorAlias": "me"})
    assert (answer.opcode, answer.data) == (Opcode.TEXT_RESPONSE, b"")
    answers = end.ask(end.read(0, 8))
    assert [len(answer.data) for answer in answers] == [1024] * 4


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("MaxRecvDataSegmentLength", "100", "Reject"),
        ("InitialR2T", "No", "Reject"),
        ("HeaderDigest", "None", "Reject"),
        ("TargetAlias", "x", "Reject"),
        ("X-org.example", "1", "NotUnderstood"),
    ],
)
def test_everything_else_is_settled_after_the_login(name: str, value: str, expected: str) -> None:
    end = Wire().connect()
    end.login()
    assert keys_of(text_request(end, {name: value})) == {name: expected}


def test_a_connection_that_joins_settles_its_own_keys_and_none_of_the_session() -> None:
    wire = Wire(offer=TARGET_OFFER)
    first, second = wire.connect(), wire.connect()
    tsih = first.login(MaxConnections="2", MaxBurstLength="65536", MaxRecvDataSegmentLength="65536").tsih
    keys = NAMES | {"MaxBurstLength": "8192", "HeaderDigest": "CRC32C", "MaxRecvDataSegmentLength": "4096"}
    (answer,) = second.ask(second.login_pdu(keys, tsih=tsih, cid=1))
    assert answer.status == LoginStatus.SUCCESS
    assert keys_of(answer)["MaxBurstLength"] == "Reject"
    assert keys_of(answer)["HeaderDigest"] == "CRC32C"
    mine, theirs = second.engine.parameters, first.engine.parameters
    assert mine == replace(theirs, header_digest="CRC32C", max_recv_data_segment_length=4096)
