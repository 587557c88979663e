"""Who is let in, from where and through which portal; what discovery says; redirects; changes at run time."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from csvd.errors import ConfigError
from csvd.iscsi import text
from csvd.iscsi.access import OPEN, Access, InitiatorRule, Origin, parse_network
from csvd.iscsi.chap import Credentials
from csvd.iscsi.codes import LoginStatus, Opcode
from csvd.iscsi.events import EventKind
from csvd.iscsi.node import MAX_REMOVED, TargetNode
from csvd.iscsi.portals import PortalGroup, PortRedirect, Redirect, peer_address, split_address
from tests.iscsi_wire import INITIATOR, SECRET, TARGET, End, Pdu, Router, Wire, pdu
from tests.unit.iscsi.test_login_chap import challenged, prove

NAMES = {"InitiatorName": INITIATOR, "SessionType": "Normal", "TargetName": TARGET}
OTHER = "iqn.2026-11.test:other-disk"
FRIEND = "iqn.2026-11.test:friend"
NETWORKS = (parse_network("192.0.2.0/24"), parse_network("2001:db8::/32"))


def log_in(wire: Wire, peer: str = "test", tag: int = 1, local: str = "127.0.0.1:3260", **keys: str) -> Pdu:
    end = wire.connect(peer=peer, portal_group_tag=tag, local_address=local)
    (answer,) = end.ask(end.login_pdu(NAMES | keys))
    return answer


@pytest.mark.parametrize(
    ("peer", "admitted"),
    [
        ("192.0.2.7:41000", True),
        ("192.0.3.7:41000", False),
        ("[2001:db8::7]:41000", True),
        ("[2001:db9::7]:41000", False),
        ("[::ffff:192.0.2.7]:41000", True),
        ("[fe80::1%eth0]:41000", False),
        ("somewhere", False),
    ],
)
def test_an_initiator_comes_from_an_address_range_or_not_in(peer: str, admitted: bool) -> None:
    status = LoginStatus.SUCCESS if admitted else LoginStatus.AUTHORIZATION_FAILURE
    assert log_in(Wire(access=Access(networks=NETWORKS)), peer).status == status


@pytest.mark.parametrize("text_", ["192.0.2.1/24", "192.0.2.0/33", "host", "", "2001:db8::/129"])
def test_what_is_no_address_range_is_refused(text_: str) -> None:
    with pytest.raises(ConfigError, match="address range"):
        parse_network(text_)


def test_a_rule_lets_in_an_initiator_that_is_on_no_list_and_only_from_its_own_network() -> None:
    rule = InitiatorRule(networks=(parse_network("198.51.100.7/32"),))
    access = Access(initiators=frozenset({FRIEND}), networks=NETWORKS, rules={INITIATOR: rule})
    assert log_in(Wire(access=access), "198.51.100.7:1").status == LoginStatus.SUCCESS
    assert log_in(Wire(access=access), "192.0.2.7:1").status == LoginStatus.AUTHORIZATION_FAILURE
    assert log_in(Wire(access=access), "192.0.2.7:1", InitiatorName=FRIEND).status == LoginStatus.SUCCESS
    stranger = "iqn.2026-11.test:stranger"
    assert log_in(Wire(access=access), "192.0.2.7:1", InitiatorName=stranger).status == 0x0202


def test_a_name_in_capitals_is_the_same_initiator() -> None:
    access = Access(initiators=frozenset({INITIATOR}))
    assert log_in(Wire(access=access), InitiatorName=INITIATOR.upper()).status == LoginStatus.SUCCESS


def test_luns_are_shown_by_rule() -> None:
    access = Access(rules={INITIATOR: InitiatorRule(luns=frozenset({0, 3}))})
    assert [lun for lun in range(5) if access.shows(INITIATOR, lun)] == [0, 3]
    assert [lun for lun in range(5) if access.shows(FRIEND, lun)] == [0, 1, 2, 3, 4]


# Portal groups


def two_groups() -> Wire:
    """Target A in both groups, target B in the second alone; the initiator may use them."""
    wire = Wire()
    wire.entity.groups = {
        1: PortalGroup(1, ("127.0.0.1:3260", "127.0.0.2:3260")),
        2: PortalGroup(2, ("0.0.0.0:3261", "[::]:3262", "[2001:db8::1]:3260")),
    }
    wire.entity.add_target(TargetNode(OTHER, Router(), portal_group_tags={2}))
    return wire


def discover(wire: Wire, asked: str = "All", tag: int = 1, **keys: str) -> list[tuple[str, str]]:
    end = wire.connect(portal_group_tag=tag, local_address="127.0.0.1:3260", peer="192.0.2.7:1")
    (answer,) = end.ask(end.login_pdu({"InitiatorName": INITIATOR, "SessionType": "Discovery"} | keys))
    assert answer.status == LoginStatus.SUCCESS
    return send_targets(end, asked)


def send_targets(end: End, asked: str) -> list[tuple[str, str]]:
    request = text.build([("SendTargets", asked)])
    (answer,) = end.ask(pdu(Opcode.TEXT_REQUEST, request, opcode=0x44, flags=0x80, target_transfer_tag=0xFFFFFFFF))
    return text.parse(answer.data)


A_FIRST = [("TargetAddress", "127.0.0.1:3260,1"), ("TargetAddress", "127.0.0.2:3260,1")]
SECOND = [
    ("TargetAddress", "127.0.0.1:3261,2"),
    ("TargetAddress", "127.0.0.1:3262,2"),
    ("TargetAddress", "[2001:db8::1]:3260,2"),
]


def test_discovery_names_every_portal_of_every_group_with_its_tag() -> None:
    found = discover(two_groups())
    assert found == [("TargetName", TARGET), *A_FIRST, *SECOND, ("TargetName", OTHER), *SECOND]


def test_discovery_names_the_portals_of_other_nodes_behind_its_own_to_whom_they_let_in() -> None:
    wire = two_groups()
    target = wire.entity.targets[TARGET]
    target.elsewhere = {0x31: ("192.0.2.3:3260",), 0x21: ("192.0.2.2:3260", "[2001:db8::2]:3260"), 2: ("192.0.2.9:1",)}
    there = [("TargetAddress", "192.0.2.2:3260,33"), ("TargetAddress", "[2001:db8::2]:3260,33")]
    assert discover(wire) == [
        *(("TargetName", TARGET), *A_FIRST, *SECOND, *there, ("TargetAddress", "192.0.2.3:3260,49")),
        *(("TargetName", OTHER), *SECOND),
    ]
    target.access = Access(rules={INITIATOR: InitiatorRule(portal_group_tags=frozenset({1, 0x21}))})
    assert discover(wire, TARGET) == [("TargetName", TARGET), *A_FIRST, *there]


def test_discovery_of_one_name_gives_that_target_and_of_nothing_gives_nothing() -> None:
    wire = two_groups()
    assert discover(wire, OTHER) == [("TargetName", OTHER), *SECOND]
    assert discover(wire, "") == []
    assert discover(wire, "iqn.2026-11.test:none") == []


def test_a_normal_session_is_told_of_its_own_target_alone() -> None:
    wire = two_groups()
    end = wire.connect()
    end.login()
    assert send_targets(end, "All") == [("SendTargets", "Reject")]
    for asked in ("", TARGET):
        assert send_targets(end, asked) == [("TargetName", TARGET), *A_FIRST, *SECOND]
    assert send_targets(end, OTHER) == []


def test_discovery_leaves_out_what_the_initiator_may_not_use() -> None:
    wire = two_groups()
    wire.target.access = Access(rules={INITIATOR: InitiatorRule(portal_group_tags=frozenset({1}))})
    wire.entity.targets[OTHER].access = Access(networks=(parse_network("198.51.100.0/24"),))
    assert discover(wire) == [("TargetName", TARGET), *A_FIRST]


def test_a_target_is_logged_in_to_through_its_own_groups_alone() -> None:
    wire = two_groups()
    assert log_in(wire, tag=1, TargetName=OTHER).status == LoginStatus.NOT_FOUND
    answer = log_in(wire, tag=2, TargetName=OTHER)
    assert answer.status == LoginStatus.SUCCESS
    assert dict(text.parse(answer.data))["TargetPortalGroupTag"] == "2"
    (session,) = wire.entity.targets[OTHER].sessions.values()
    assert session.nexus.endswith(f"{OTHER},t,0x0002")


def test_an_initiator_that_may_not_use_a_group_is_refused_there() -> None:
    wire = Wire(access=Access(rules={INITIATOR: InitiatorRule(portal_group_tags=frozenset({2}))}))
    assert log_in(wire, tag=1).status == LoginStatus.AUTHORIZATION_FAILURE
    assert log_in(wire, tag=2).status == LoginStatus.SUCCESS


@pytest.mark.parametrize("tag", [-1, 65536])
def test_a_portal_group_tag_has_16_bits(tag: int) -> None:
    with pytest.raises(ConfigError, match="65535"):
        PortalGroup(tag, ())


@pytest.mark.parametrize(
    ("text_", "parts"),
    [
        ("host", ("host", 3260)),
        ("[::1]", ("::1", 3260)),
        ("[::1]:7", ("::1", 7)),
        ("1.2.3.4:65535", ("1.2.3.4", 65535)),
    ],
)
def test_addresses_are_split(text_: str, parts: tuple[str, int]) -> None:
    assert split_address(text_) == parts


@pytest.mark.parametrize("text_", ["", ":3260", "::1:3260", "h:65536", "h:x", "h:", "h:\u0663"])
def test_what_is_no_address_is_refused(text_: str) -> None:
    with pytest.raises(ConfigError):
        split_address(text_)
    assert peer_address(text_) is None


def test_peers_behind_a_portal_of_both_families_are_ipv4() -> None:
    assert peer_address("[::ffff:192.0.2.1]:5") == ip_address("192.0.2.1")


# Redirects


@pytest.mark.parametrize(("permanent", "status"), [(False, 0x0101), (True, 0x0102)])
def test_a_login_is_sent_on_and_served_where_it_was_sent(permanent: bool, status: int) -> None:
    wire = Wire()
    wire.target.redirect = Redirect("127.0.0.2:3260", permanent)
    answer = log_in(wire, local="127.0.0.1:3260")
    assert answer.status == status
    assert text.parse(answer.data) == [("TargetAddress", "127.0.0.2:3260")]
    assert not wire.router.nexuses
    assert log_in(wire, local="127.0.0.2:3260").status == LoginStatus.SUCCESS


def test_a_redirect_to_the_portal_itself_is_none_however_it_is_written() -> None:
    for address, local in (
        ("127.0.0.1", "127.0.0.1:3260"),
        ("[2001:DB8:0::1]:3260", "[2001:db8::1]:3260"),
        ("[::ffff:127.0.0.1]:3260", "127.0.0.1:3260"),
    ):
        wire = Wire()
        wire.target.redirect = Redirect(address)
        assert log_in(wire, local=local).status == LoginStatus.SUCCESS


def test_a_redirect_to_a_name_wants_the_group_that_it_leads_to() -> None:
    with pytest.raises(ConfigError, match="circles"):
        Redirect("san.example:3260")
    wire = Wire()
    wire.target.redirect = Redirect("san.example:3260", portal_group_tag=2)
    assert log_in(wire, tag=1).status == LoginStatus.TARGET_MOVED_TEMPORARILY
    assert log_in(wire, tag=2).status == LoginStatus.SUCCESS


def test_who_is_not_let_in_is_not_told_where_the_target_went() -> None:
    wire = Wire(access=Access(initiators=frozenset({FRIEND})))
    wire.target.redirect = Redirect("127.0.0.2:3260")
    answer = log_in(wire)
    assert (answer.status, answer.data) == (LoginStatus.AUTHORIZATION_FAILURE, b"")


@pytest.mark.parametrize(
    ("local", "address"),
    [
        ("127.0.0.1:3260", "127.0.0.1:7001"),
        ("192.0.2.1:3261", "192.0.2.1:7002"),
        ("[2001:db8::1]:3262", "[2001:db8::1]:7003"),
        ("192.0.2.1:3262", "192.0.2.1:7003"),
    ],
)
def test_a_login_is_sent_on_to_the_port_behind_the_portal_that_it_came_to(local: str, address: str) -> None:
    wire = Wire()
    wire.target.redirect = PortRedirect({"127.0.0.1:3260": 7001, "0.0.0.0:3261": 7002, "[::]:3262": 7003})
    answer = log_in(wire, local=local)
    assert (answer.status, text.parse(answer.data)) == (
        LoginStatus.TARGET_MOVED_TEMPORARILY,
        [("TargetAddress", address)],
    )


def test_a_login_behind_no_port_is_asked_to_come_back_and_served_never() -> None:
    wire = Wire()
    wire.target.redirect = PortRedirect({})
    assert log_in(wire).status == LoginStatus.SERVICE_UNAVAILABLE
    assert not wire.router.nexuses


def test_a_login_for_a_further_connection_is_sent_where_the_session_is() -> None:
    wire = Wire()
    wire.target.redirect = PortRedirect({"127.0.0.1:3260": 7001})
    (answer,) = (end := wire.connect()).ask(end.login_pdu(NAMES, tsih=5))
    assert answer.status == LoginStatus.TARGET_MOVED_TEMPORARILY
    wire.target.redirect = Redirect("127.0.0.2:3260")
    (answer,) = (end := wire.connect()).ask(end.login_pdu(NAMES, tsih=5))
    assert answer.status == LoginStatus.SESSION_DOES_NOT_EXIST


def test_a_login_to_a_target_that_is_not_behind_the_portal_any_more_is_sent_back_to_it() -> None:
    wire = Wire()
    wire.entity.stands_behind_a_portal = True
    wire.entity.remove_target(TARGET)
    for name in (TARGET, "iqn.2026-11.test:never"):
        answer = log_in(wire, local="127.0.0.1:3260", TargetName=name)
        assert (answer.status, text.parse(answer.data)) == (
            LoginStatus.TARGET_MOVED_TEMPORARILY,
            [("TargetAddress", "127.0.0.1:3260")],
        )
    assert log_in(wire, TargetName="").status == LoginStatus.MISSING_PARAMETER


def test_where_the_target_itself_has_moved_goes_before_the_port_and_may_be_for_good() -> None:
    wire = Wire()
    before = Redirect("127.0.0.2:3260", permanent=True)
    wire.target.redirect = PortRedirect({"127.0.0.1:3260": 7001, "127.0.0.2:3260": 7002}, before)
    assert log_in(wire, local="127.0.0.1:3260").status == LoginStatus.TARGET_MOVED_PERMANENTLY
    assert log_in(wire, local="127.0.0.2:3260").status == LoginStatus.TARGET_MOVED_TEMPORARILY


def test_an_initiator_that_is_sent_on_is_no_failed_login() -> None:
    wire = Wire()
    wire.target.redirect = Redirect("127.0.0.2:3260")
    end = wire.connect()
    end.ask(end.login_pdu(NAMES))
    assert [event.kind for event in end.engine.events] == [EventKind.LOGIN_REDIRECT]


# Changes at run time


def test_a_removed_target_ends_its_sessions_and_says_so_to_who_comes_back() -> None:
    wire = Wire()
    end = wire.connect()
    end.login()
    wire.entity.remove_target(TARGET)
    assert end.engine.closing
    assert not wire.router.nexuses
    assert log_in(wire).status == LoginStatus.TARGET_REMOVED
    wire.entity.add_target(wire.target)
    assert log_in(wire).status == LoginStatus.SUCCESS


def test_the_names_of_removed_targets_are_bounded() -> None:
    wire = Wire()
    for number in range(MAX_REMOVED + 10):
        wire.entity.add_target(TargetNode(f"iqn.2026-11.test:{number}", Router()))
        wire.entity.remove_target(f"iqn.2026-11.test:{number}")
    assert log_in(wire, TargetName="iqn.2026-11.test:0").status == LoginStatus.NOT_FOUND
    assert log_in(wire, TargetName="iqn.2026-11.test:200").status == LoginStatus.TARGET_REMOVED


def test_a_node_or_a_target_that_is_being_stopped_takes_no_new_sessions_and_keeps_the_old() -> None:
    wire = Wire()
    end = wire.connect()
    end.login()
    wire.target.draining = True
    assert log_in(wire).status == LoginStatus.SERVICE_UNAVAILABLE
    wire.target.draining, wire.entity.draining = False, True
    assert log_in(wire).status == LoginStatus.SERVICE_UNAVAILABLE
    (answer,) = end.ask(end.read(0, 1))
    assert answer.opcode == Opcode.DATA_IN


def test_a_session_whose_initiator_lost_its_right_ends_and_the_others_go_on() -> None:
    wire = Wire()
    lost, kept = wire.connect(peer="192.0.2.7:1"), wire.connect(peer="192.0.2.8:1")
    lost.login()
    (answer,) = kept.ask(kept.login_pdu(NAMES | {"InitiatorName": FRIEND}))
    assert answer.status == LoginStatus.SUCCESS
    woken: list[bool] = []
    lost.engine.wake = lambda: woken.append(True)
    wire.entity.change_access(wire.target, Access(initiators=frozenset({FRIEND})))
    assert lost.engine.closing
    assert woken
    assert "no right" in lost.engine.events[-1].text
    assert not kept.engine.closing
    wire.entity.change_access(wire.target, Access(networks=(parse_network("192.0.2.7"),)))
    assert kept.engine.closing


def test_a_change_of_the_secret_ends_the_sessions_that_came_in_by_the_old_one() -> None:
    joe = Credentials("joe", SECRET)
    wire = Wire(access=Access(credentials={"joe": joe}))
    end = wire.connect()
    assert prove(end, challenged(end)).status == LoginStatus.SUCCESS
    (answer,) = end.ask(end.login_pdu({}))
    assert answer.tsih
    ann = Credentials("ann", b"another user's secret")
    wire.entity.change_access(wire.target, Access(credentials={"joe": joe, "ann": ann}))
    assert not end.engine.closing
    wire.entity.change_access(wire.target, Access(credentials={"joe": Credentials("joe", b"a new secret for joe")}))
    assert end.engine.closing


def test_a_session_without_chap_ends_when_chap_is_demanded_from_now_on() -> None:
    wire = Wire()
    end = wire.connect()
    end.login()
    wire.entity.change_access(wire.target, OPEN)
    assert not end.engine.closing
    wire.entity.change_access(wire.target, Access(credentials={"joe": Credentials("joe", SECRET)}))
    assert end.engine.closing


def test_an_origin_without_an_address_is_in_no_network() -> None:
    assert not Access(networks=NETWORKS).admits(INITIATOR, Origin(None, 1))
    assert OPEN.admits(INITIATOR, Origin(None, 1))


def test_a_right_that_is_lost_while_its_initiator_logs_in_is_lost() -> None:
    wire = Wire()
    end = wire.connect()
    (answer,) = end.ask(end.login_pdu(NAMES, flags=0x81))
    assert answer.status == LoginStatus.SUCCESS
    wire.entity.change_access(wire.target, Access(initiators=frozenset({FRIEND})))
    (answer,) = end.ask(end.login_pdu({}))
    assert answer.status == LoginStatus.AUTHORIZATION_FAILURE
    assert not wire.target.sessions


def test_a_secret_that_is_changed_between_proof_and_end_of_the_login_lets_nobody_in() -> None:
    wire = Wire(access=Access(credentials={"joe": Credentials("joe", SECRET)}))
    end = wire.connect()
    assert prove(end, challenged(end)).status == LoginStatus.SUCCESS
    wire.entity.change_access(wire.target, Access(credentials={"joe": Credentials("joe", b"a new secret for joe")}))
    (answer,) = end.ask(end.login_pdu({}))
    assert answer.status == LoginStatus.AUTHORIZATION_FAILURE


@pytest.mark.parametrize("again", [False, True])
def test_a_target_that_is_removed_while_an_initiator_logs_in_gets_no_session(again: bool) -> None:
    wire = Wire()
    end = wire.connect()
    end.feed(end.login_pdu(NAMES, flags=0x81))
    end.take()
    removed = wire.entity.remove_target(TARGET)
    if again:
        wire.entity.add_target(TargetNode(TARGET, Router()))
    (answer,) = end.ask(end.login_pdu({}))
    assert answer.status == LoginStatus.TARGET_REMOVED
    assert not removed.sessions


def test_a_node_that_begins_to_stop_while_an_initiator_logs_in_gives_no_session() -> None:
    wire = Wire()
    end = wire.connect()
    end.feed(end.login_pdu(NAMES, flags=0x81))
    end.take()
    wire.entity.draining = True
    (answer,) = end.ask(end.login_pdu({}))
    assert answer.status == LoginStatus.SERVICE_UNAVAILABLE


def test_discovery_is_refused_when_its_right_goes_while_the_login_is_under_way() -> None:
    wire = Wire()
    end = wire.connect()
    end.feed(end.login_pdu({"InitiatorName": INITIATOR, "SessionType": "Discovery"}, flags=0x81))
    end.take()
    wire.entity.discovery_access = Access(credentials={"joe": Credentials("joe", SECRET)})
    (answer,) = end.ask(end.login_pdu({}))
    assert answer.status == LoginStatus.AUTHORIZATION_FAILURE


def test_a_secret_that_proves_the_target_by_one_rule_proves_no_initiator_by_another() -> None:
    both = b"one secret for both directions"
    proof, user = Credentials("the target", both), Credentials("joe", both)
    for access in (
        {"proof": proof, "rules": {INITIATOR: InitiatorRule(credentials={"joe": user})}},
        {"credentials": {"joe": user}, "rules": {INITIATOR: InitiatorRule(proof=proof)}},
        {"rules": {INITIATOR: InitiatorRule(proof=proof), FRIEND: InitiatorRule(credentials={"joe": user})}},
    ):
        with pytest.raises(ConfigError, match="proves itself"):
            Access(**access)
