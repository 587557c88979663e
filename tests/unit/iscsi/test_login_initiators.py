"""The logins of initiators in use, key by key and in their order of PDUs.

Those of open-iscsi, libiscsi and iPXE follow what was captured; those of Windows and ESXi what others report of them:
no such initiator was here to look at.
"""

from __future__ import annotations

import pytest

from csvd.iscsi import chap, text
from csvd.iscsi.access import OPEN, Access
from csvd.iscsi.chap import Algorithm, Credentials
from csvd.iscsi.codes import LoginStatus, Opcode
from csvd.iscsi.node import TARGET_OFFER
from tests.iscsi_wire import INITIATOR, SECRET, TARGET, End, Pdu, Wire

CHAP = Access(credentials={"joe": Credentials("joe", SECRET)})

LIBISCSI = {
    "HeaderDigest": "None,CRC32C",
    "DataDigest": "None,CRC32C",
    "InitialR2T": "No",
    "ImmediateData": "Yes",
    "MaxBurstLength": "262144",
    "FirstBurstLength": "262144",
    "MaxRecvDataSegmentLength": "262144",
    "DataPDUInOrder": "Yes",
    "DefaultTime2Wait": "2",
    "DefaultTime2Retain": "0",
    "IFMarker": "No",
    "OFMarker": "No",
    "MaxConnections": "1",
    "MaxOutstandingR2T": "1",
    "ErrorRecoveryLevel": "0",
    "DataSequenceInOrder": "Yes",
}
OPEN_ISCSI = {
    "HeaderDigest": "None",
    "DataDigest": "None",
    "DefaultTime2Wait": "2",
    "DefaultTime2Retain": "0",
    "IFMarker": "No",
    "OFMarker": "No",
    "ErrorRecoveryLevel": "0",
    "InitialR2T": "No",
    "ImmediateData": "Yes",
    "MaxBurstLength": "16776192",
    "FirstBurstLength": "262144",
    "MaxOutstandingR2T": "1",
    "MaxConnections": "1",
    "DataPDUInOrder": "Yes",
    "DataSequenceInOrder": "Yes",
    "MaxRecvDataSegmentLength": "262144",
}
WINDOWS = {
    "HeaderDigest": "None,CRC32C",
    "DataDigest": "None,CRC32C",
    "ErrorRecoveryLevel": "2",
    "InitialR2T": "No",
    "ImmediateData": "Yes",
    "MaxRecvDataSegmentLength": "65536",
    "MaxBurstLength": "262144",
    "FirstBurstLength": "65536",
    "MaxConnections": "1",
    "DataPDUInOrder": "Yes",
    "DataSequenceInOrder": "Yes",
    "DefaultTime2Wait": "0",
    "DefaultTime2Retain": "60",
    "MaxOutstandingR2T": "16",
}
ESXI = {
    "HeaderDigest": "None",
    "DataDigest": "None",
    "DefaultTime2Wait": "0",
    "DefaultTime2Retain": "0",
    "IFMarker": "No",
    "OFMarker": "No",
    "ErrorRecoveryLevel": "0",
    "TaskReporting": "RFC3720",
    "InitialR2T": "No",
    "ImmediateData": "Yes",
    "MaxBurstLength": "262144",
    "FirstBurstLength": "262144",
    "MaxOutstandingR2T": "1",
    "MaxConnections": "1",
    "DataPDUInOrder": "Yes",
    "DataSequenceInOrder": "Yes",
    "MaxRecvDataSegmentLength": "131072",
}
IPXE = {
    "HeaderDigest": "None",
    "DataDigest": "None",
    "MaxConnections": "1",
    "InitialR2T": "Yes",
    "ImmediateData": "No",
    "MaxRecvDataSegmentLength": "8192",
    "MaxBurstLength": "262144",
    "FirstBurstLength": "65536",
    "DefaultTime2Wait": "0",
    "DefaultTime2Retain": "0",
    "MaxOutstandingR2T": "1",
    "DataPDUInOrder": "Yes",
    "DataSequenceInOrder": "Yes",
    "ErrorRecoveryLevel": "0",
}


def names(order: tuple[str, ...] = ("InitiatorName", "SessionType", "TargetName")) -> dict[str, str]:
    values = {"InitiatorName": INITIATOR, "SessionType": "Normal", "TargetName": TARGET, "InitiatorAlias": "host"}
    return {name: values[name] for name in order}


def ask(end: End, keys: dict[str, str], flags: int) -> Pdu:
    (answer,) = end.ask(end.login_pdu(keys, flags=flags))
    assert answer.status == LoginStatus.SUCCESS
    return answer


def keys_of(answer: Pdu) -> dict[str, str]:
    return dict(text.parse(answer.data))


def connect(access: Access = OPEN) -> End:
    return Wire(access=access, offer=TARGET_OFFER).connect()


def complete(end: End, answer: Pdu, offered: dict[str, str]) -> dict[str, str]:
    """Check the end of a login: a value for each key offered, and a session that reads."""
    assert answer.flags == 0x87
    assert answer.tsih
    keys = keys_of(answer)
    assert offered.keys() - {"MaxRecvDataSegmentLength"} <= keys.keys()
    assert "MaxRecvDataSegmentLength" in keys, "else Linux sends 8192 bytes a PDU"
    assert not {"Reject", "Irrelevant", "NotUnderstood"} & set(keys.values())
    answers = end.ask(end.read(0, 1))
    assert [answer.opcode for answer in answers] == [Opcode.DATA_IN]
    return keys


def response(asked: dict[str, str]) -> str:
    digest = chap.response(
        Algorithm(int(asked["CHAP_A"])), int(asked["CHAP_I"]), SECRET, chap.decode_binary(asked["CHAP_C"])
    )
    return chap.encode_binary(digest)


def test_open_iscsi_without_chap_goes_by_the_security_stage() -> None:
    end = connect()
    first = ask(
        end, names(("InitiatorName", "InitiatorAlias", "TargetName", "SessionType")) | {"AuthMethod": "None"}, 0x81
    )
    assert first.flags == 0x81
    assert keys_of(first) == {"TargetPortalGroupTag": "1", "AuthMethod": "None"}
    keys = complete(end, ask(end, OPEN_ISCSI, 0x87), OPEN_ISCSI)
    assert (keys["MaxBurstLength"], keys["InitialR2T"], keys["FirstBurstLength"]) == ("1048576", "No", "262144")


def test_open_iscsi_with_chap() -> None:
    end = connect(CHAP)
    first = ask(end, names() | {"AuthMethod": "CHAP,None"}, 0x81)
    assert (first.flags, keys_of(first)["AuthMethod"]) == (0x00, "CHAP")
    asked = keys_of(ask(end, {"CHAP_A": "5"}, 0x00))
    third = ask(end, {"CHAP_N": "joe", "CHAP_R": response(asked)}, 0x81)
    assert (third.flags, third.data) == (0x81, b"")
    complete(end, ask(end, OPEN_ISCSI, 0x87), OPEN_ISCSI)


def test_open_iscsi_discovers_in_one_pdu() -> None:
    end = connect()
    offered = {name: OPEN_ISCSI[name] for name in ("HeaderDigest", "DataDigest", "MaxRecvDataSegmentLength")}
    answer = ask(end, {"InitiatorName": INITIATOR, "SessionType": "Discovery"} | offered, 0x87)
    assert answer.flags == 0x87
    assert answer.tsih
    assert keys_of(answer) | {"MaxRecvDataSegmentLength": ""} == {
        "HeaderDigest": "None",
        "DataDigest": "None",
        "MaxRecvDataSegmentLength": "",
    }


def test_libiscsi_and_qemu_without_chap_offer_everything_at_once() -> None:
    end = connect()
    keys = complete(end, ask(end, names() | LIBISCSI, 0x87), LIBISCSI)
    assert (keys["HeaderDigest"], keys["ImmediateData"]) == ("None", "Yes")


def test_libiscsi_and_qemu_with_chap_say_their_name_again() -> None:
    end = connect(CHAP)
    first = ask(end, names() | {"AuthMethod": "CHAP,None"}, 0x00)
    assert keys_of(first)["AuthMethod"] == "CHAP"
    asked = keys_of(ask(end, {"CHAP_A": "5"}, 0x00))
    ask(end, {"CHAP_N": "joe", "CHAP_R": response(asked)}, 0x81)
    keys = complete(end, ask(end, names() | LIBISCSI, 0x87), LIBISCSI)
    assert "InitiatorName" not in keys


@pytest.mark.parametrize("access", [OPEN, CHAP])
def test_ipxe_gets_the_algorithm_as_5_and_nothing_unasked_for_in_its_data_transfer(access: Access) -> None:
    end = connect(access)
    first = keys_of(ask(end, names() | {"AuthMethod": "CHAP,None"}, 0x00))
    if first["AuthMethod"] == "CHAP":
        asked = ask(end, {"CHAP_A": "5"}, 0x00)
        assert b"CHAP_A=5\0" in asked.data
        assert not asked.flags & 0x80
        ask(end, {"CHAP_N": "joe", "CHAP_R": response(keys_of(asked))}, 0x81)
    else:
        ask(end, {}, 0x81)
    keys = complete(end, ask(end, IPXE, 0x87), IPXE)
    assert (keys["InitialR2T"], keys["ImmediateData"]) == ("Yes", "No")
    (answer,) = end.ask(end.write(0, 1))
    assert answer.opcode == Opcode.R2T
    end.engine.tick(10_000.0)
    assert not end.engine.closing, "it answers no NOP-In, and is not dropped for it"


def test_windows_offers_chap_and_error_recovery_and_is_talked_down() -> None:
    end = connect()
    first = ask(
        end, names(("InitiatorName", "SessionType", "TargetName", "InitiatorAlias")) | {"AuthMethod": "None"}, 0x81
    )
    assert first.flags == 0x81
    keys = complete(end, ask(end, WINDOWS, 0x87), WINDOWS)
    assert keys["ErrorRecoveryLevel"] == "0"
    assert keys["MaxOutstandingR2T"] == "1"
    assert keys["DefaultTime2Wait"] == "0"
    assert keys["DefaultTime2Retain"] == "20"


def test_esxi_is_told_which_task_reporting_it_gets() -> None:
    end = connect(CHAP)
    first = ask(end, names() | {"AuthMethod": "CHAP"}, 0x81)
    assert first.flags == 0x00
    asked = keys_of(ask(end, {"CHAP_A": "5"}, 0x00))
    # It proves itself without asking for the transit, and asks for it alone.
    assert ask(end, {"CHAP_N": "joe", "CHAP_R": response(asked)}, 0x00).flags == 0x00
    assert ask(end, {}, 0x81).flags == 0x81
    keys = complete(end, ask(end, ESXI, 0x87), ESXI)
    assert keys["TaskReporting"] == "RFC3720"


def test_an_initiator_that_leaves_out_keys_gets_the_defaults_of_the_standard() -> None:
    end = connect()
    answer = ask(end, names(("InitiatorName", "TargetName")), 0x87)
    assert answer.tsih
    assert end.engine.session is not None
    parameters = end.engine.session.parameters
    assert parameters.initial_r2t
    assert parameters.immediate_data
    assert parameters.first_burst_length == 65536
    assert parameters.max_recv_data_segment_length == 8192
