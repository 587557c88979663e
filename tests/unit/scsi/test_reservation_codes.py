"""Reservations as JSON: what one node encodes another one decodes, and nonsense costs an error of its own."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from csvd.scsi.reservation_codes import (
    SenselessCode,
    decode_action,
    decode_condition,
    decode_registrant,
    decode_shared_state,
    encode_action,
    encode_condition,
    encode_shared_state,
)
from csvd.scsi.reservations import (
    TYPES,
    Clear,
    Move,
    Preempt,
    Register,
    Registrant,
    Release,
    Reserve,
    State,
)
from csvd.scsi.sense import Asc, FieldPointer, illegal_request
from csvd.scsi.unit_record import Effect, UnitRecord

names = st.text("abc:.,0x", min_size=1, max_size=20)
registrants = st.builds(Registrant, names, names, st.integers(1, 0xFFFF))
keys = st.integers(0, 2**64 - 1)
types = st.sampled_from(list(TYPES.values()))
actions = st.one_of(
    st.builds(
        Register,
        registrants,
        keys,
        keys,
        ignores_key=st.booleans(),
        other_ports=st.lists(registrants, max_size=3).map(tuple),
        specified=st.none() | st.lists(registrants, max_size=3).map(tuple),
        aptpl=st.booleans(),
    ),
    st.builds(Reserve, registrants, keys, types),
    st.builds(Release, registrants, keys, st.none() | types),
    st.builds(Clear, registrants, keys),
    st.builds(Preempt, registrants, keys, keys, st.none() | types),
    st.builds(Move, registrants, keys, keys, registrants, st.booleans(), st.booleans()),
)
json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=6),
    max_leaves=12,
)


@st.composite
def states(draw: Any) -> State:
    held = draw(st.dictionaries(registrants, keys, max_size=6))
    kind = draw(types) if held and draw(st.booleans()) else None
    holder = None
    if kind is not None and not kind.all_registrants:
        holder = draw(st.sampled_from(list(held)))
    return State(MappingProxyType(held), kind, holder, draw(st.integers(0, 2**32 - 1)), draw(st.booleans()))


def travelled(value: Any) -> Any:
    return msgspec.json.decode(msgspec.json.encode(value))


@given(actions)
def test_an_action_is_the_same_at_the_coordinator(action: Any) -> None:
    assert decode_action(travelled(encode_action(action))) == action


@given(states())
def test_a_state_is_the_same_on_all_nodes_in_the_order_of_its_registrations(state: State) -> None:
    decoded = decode_shared_state(travelled(encode_shared_state(state)))
    assert decoded == state
    assert list(decoded.keys) == list(state.keys)


@given(states(), st.none() | registrants)
def test_a_record_is_the_same_after_a_journey(state: State, holder: Registrant | None) -> None:
    record = UnitRecord(3, 7, 1, state, holder, "n1" if holder else "", {"0A-00": "00"}, {}, {"name": [1]})
    assert UnitRecord.of(travelled(record.to_json())) == record


@given(st.lists(registrants, max_size=3), st.booleans())
def test_an_effect_is_the_same_after_a_journey(nexuses: list[Registrant], aborts: bool) -> None:
    attentions = tuple((who, Asc.REGISTRATIONS_PREEMPTED) for who in nexuses)
    effect = Effect("reservations", 9, attentions, tuple(nexuses), aborts, nexuses[0] if nexuses else None)
    assert Effect.of(travelled(effect.to_json())) == effect


@pytest.mark.parametrize("field", [None, FieldPointer(8, 3, in_cdb=False), FieldPointer(2)])
def test_a_condition_names_the_same_field(field: FieldPointer | None) -> None:
    condition = illegal_request(Asc.INVALID_FIELD_IN_PARAMETER_LIST, field)
    decoded = decode_condition(travelled(encode_condition(condition)))
    assert (decoded.key, decoded.asc, decoded.field) == (condition.key, condition.asc, field)


@given(json)
def test_nonsense_is_one_error(code: Any) -> None:
    for decode in (decode_action, decode_shared_state, decode_condition, decode_registrant, UnitRecord.of, Effect.of):
        try:
            decode(code)
        except SenselessCode:
            continue
        assert decode is decode_registrant, code
