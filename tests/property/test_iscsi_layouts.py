"""Every PDU layout: the construct declaration and the derived struct say the same."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from csvd.iscsi.codes import BHS_BYTES, Opcode
from csvd.iscsi.layouts import FAST, LAYOUTS, build

OPCODES = st.sampled_from(sorted(LAYOUTS))


@given(OPCODES, st.binary(min_size=BHS_BYTES, max_size=BHS_BYTES))
def test_the_derived_struct_reads_what_the_declaration_reads(opcode: Opcode, header: bytes) -> None:
    fast = FAST[opcode]
    fields = LAYOUTS[opcode].parse(header)
    assert fast.packing.unpack(header) == tuple(fields[name] for name in fast.fields)


@given(OPCODES, st.binary(min_size=BHS_BYTES, max_size=BHS_BYTES))
def test_what_is_packed_parses_to_the_same_values_and_both_forms_build_the_same_bytes(
    opcode: Opcode, header: bytes
) -> None:
    fast = FAST[opcode]
    values = fast.packing.unpack(header)
    packed = fast.packing.pack(*values)
    assert fast.packing.unpack(packed) == values
    named = dict(zip(fast.fields, values, strict=True))
    assert LAYOUTS[opcode].build(named) == packed
    assert build(opcode, **named) == packed
