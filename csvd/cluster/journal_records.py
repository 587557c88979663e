"""The format of the journal of a node. PURE: bytes to state, state to bytes.

    file   = header, batch, batch, …
    header = "csvdraft", version (4 bytes), CRC-32C of these (4 bytes)
    batch  = marker (4), number (8), length of the payload (4), CRC-32C of number, length and payload (4), payload

Integers are big-endian; a payload is a MessagePack list of records. A batch is what one fdatasync makes durable: it
is whole or it counts for nothing, and the next is written only after it is durable. So a damaged batch with nothing
after it is a *torn tail* (the power went while it was written, nobody was told of it) and is cut off, while a damaged
batch with a sound one after it is *corruption* of what was durable, and the node must not start. The first batch of a
file is an Image of the whole state, made with the file in one step.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Annotated, Final

import crc32c
import msgspec

from csvd.cluster.errors import JournalError

_MAGIC: Final = b"csvdraft"
_VERSION: Final = 1
_MARKER: Final = b"\xc5\x5a\xd0\x7b"
_HEADER: Final = struct.Struct(">8sII")
_BATCH: Final = struct.Struct(">4sQII")
_CRC_OFFSET: Final = 16
MAXIMUM_NUMBER: Final = 2**62

_Number = Annotated[int, msgspec.Meta(ge=0, le=MAXIMUM_NUMBER)]
_Name = Annotated[str, msgspec.Meta(max_length=63)]

Entry = tuple[bytes, _Number, _Number]
"""One entry of the Raft log, in the order of pysyncobj: command, index, term of the leader that added it."""


class Snapshot(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The replicated state after `last` was applied, and the two entries that pysyncobj keeps at a log's beginning."""

    state: bytes
    previous: Entry
    last: Entry


class Image(msgspec.Struct, frozen=True, array_like=True, tag="image", forbid_unknown_fields=True):
    """The whole state of a journal."""

    node: _Name
    incarnation: _Number
    term: _Number
    vote: _Name | None
    snapshot: Snapshot | None
    entries: list[Entry]


class Incarnation(msgspec.Struct, frozen=True, array_like=True, tag="incarnation", forbid_unknown_fields=True):
    """The node was started; each start has a higher number."""

    number: _Number


class Term(msgspec.Struct, frozen=True, array_like=True, tag="term", forbid_unknown_fields=True):
    """The current term, and whom this node voted for in it."""

    term: _Number
    vote: _Name | None


class Append(msgspec.Struct, frozen=True, array_like=True, tag="append", forbid_unknown_fields=True):
    """An entry is added to the end of the log."""

    entry: Entry


class Cut(msgspec.Struct, frozen=True, array_like=True, tag="cut", forbid_unknown_fields=True):
    """All entries with this index and above are dropped: another leader's took their place."""

    index: _Number


Record = Image | Incarnation | Term | Append | Cut

_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(list[Record])


class JournalState:
    """What a journal says; the records of a file, applied in order, make it."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.incarnation = 0
        self.term = 0
        self.vote: str | None = None
        self.snapshot: Snapshot | None = None
        self.entries: list[Entry] = []

    def image(self) -> Image:
        """The record that says all of it."""
        return Image(self.node, self.incarnation, self.term, self.vote, self.snapshot, list(self.entries))

    def apply(self, record: Record) -> None:
        """Apply one record.

        Raises:
            JournalError: the record does not fit what came before it.
        """
        match record:
            case Append(entry):
                if self.entries and entry[1] != self.entries[-1][1] + 1:
                    raise JournalError(f"entry {entry[1]} follows entry {self.entries[-1][1]}")
                self.entries.append(entry)
            case Cut(index):
                self._cut(index)
            case Term(term, vote):
                if term < self.term:
                    raise JournalError(f"term {term} follows term {self.term}")
                self.term, self.vote = term, vote
            case Incarnation(number):
                self.incarnation = number
            case Image():
                self._become(record)

    def _cut(self, index: int) -> None:
        kept = 2 if self.snapshot else 1
        position = index - self.entries[0][1] if self.entries else 0
        if not kept <= position <= len(self.entries):
            raise JournalError(f"entries from {index} can not be dropped: they are part of the snapshot, or not there")
        del self.entries[position:]

    def _become(self, image: Image) -> None:
        if image.node != self.node:
            raise JournalError(f"it belongs to node {image.node}, and this is node {self.node}")
        if image.snapshot is not None and image.entries[:2] != [image.snapshot.previous, image.snapshot.last]:
            raise JournalError("the log does not begin where the snapshot ends")
        self.incarnation, self.term, self.vote = image.incarnation, image.term, image.vote
        self.snapshot = image.snapshot
        self.entries = []
        for entry in image.entries:
            self.apply(Append(entry))


def encode_header() -> bytes:
    """The first bytes of a journal."""
    head = _MAGIC + struct.pack(">I", _VERSION)
    return head + struct.pack(">I", crc32c.crc32c(head))


def encode_batch(number: int, records: Sequence[Record]) -> bytes:
    """One batch of records."""
    payload = _encoder.encode(records)
    covered = struct.pack(">QI", number, len(payload))
    return _MARKER + covered + struct.pack(">I", crc32c.crc32c(payload, crc32c.crc32c(covered))) + payload


def encode_file(number: int, image: Image) -> bytes:
    """A whole journal with one image."""
    return encode_header() + encode_batch(number, [image])


def decode_file(data: bytes, state: JournalState) -> tuple[int, int]:
    """Apply all of a journal to a fresh state.

    Returns:
        The length in bytes of what is sound (shorter than the data: a torn tail follows), and the last batch's number.

    Raises:
        JournalError: it is not a journal, it belongs to another node, or what was durable is damaged.
    """
    if data[: _HEADER.size] != encode_header():
        raise JournalError("it does not begin like a journal of this version")
    offset, number = _HEADER.size, 0
    while (payload := _sound_batch(data, offset, above=number)) is not None:
        begins_with_image = _apply_batch(payload, offset, state)
        if (offset == _HEADER.size) != begins_with_image:
            raise JournalError(f"the batch at byte {offset} is out of its place")
        number = _BATCH.unpack_from(data, offset)[1]
        offset += _BATCH.size + len(payload)
    if offset == _HEADER.size:
        raise JournalError("its first batch is damaged")
    if offset < len(data):
        _refuse_sound_batch_after(data, offset, number)
    return offset, number


def _apply_batch(payload: bytes, offset: int, state: JournalState) -> bool:
    """Apply a batch; whether it began with an image."""
    try:
        records = _decoder.decode(payload)
        for record in records:
            state.apply(record)
    except msgspec.MsgspecError as error:
        raise JournalError(f"the batch at byte {offset} has records that are not known", why=str(error)) from error
    except JournalError as error:
        raise JournalError(f"the batch at byte {offset} does not fit: {error.what}") from error
    return bool(records) and isinstance(records[0], Image)


def _sound_batch(data: bytes, offset: int, *, above: int) -> bytes | None:
    """The payload of the batch at an offset, or None where there is none, whole and with a number above a given one."""
    if len(data) - offset < _BATCH.size:
        return None
    marker, number, length, checksum = _BATCH.unpack_from(data, offset)
    begin = offset + _BATCH.size
    if marker != _MARKER or number <= above or begin + length > len(data):
        return None
    payload = data[begin : begin + length]
    covered = data[offset + len(_MARKER) : offset + _CRC_OFFSET]
    return payload if crc32c.crc32c(payload, crc32c.crc32c(covered)) == checksum else None


def _refuse_sound_batch_after(data: bytes, damaged: int, number: int) -> None:
    """Tell a torn tail from damage in the middle: after a torn tail there is no sound batch."""
    candidate = data.find(_MARKER, damaged + 1)
    while candidate >= 0:
        if _sound_batch(data, candidate, above=number) is not None:
            raise JournalError(
                f"it is damaged at byte {damaged}, before sound data at byte {candidate}",
                hint="restore the node's state from a backup, or empty its state directory after the others removed it",
            )
        candidate = data.find(_MARKER, candidate + 1)
