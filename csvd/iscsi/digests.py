"""Header and data digests: CRC32C (RFC 7143 sections 11.2.3 and 13.1).

The processor computes them (the ``crc32c`` wheel has the instruction). On the wire a digest stands with its least
significant byte first, which is the bit order of the standard.
"""

from __future__ import annotations

from typing import Final

from crc32c import crc32c

from csvd.iscsi.layouts import PADDING

DIGEST_BYTES: Final = 4
CRC32C: Final = "CRC32C"
"""The value of HeaderDigest and DataDigest."""

Buffer = bytes | bytearray | memoryview


def digest_text(value: int) -> bytes:
    """Give a CRC as it stands on the wire."""
    return value.to_bytes(DIGEST_BYTES, "little")


def digest_of(data: Buffer) -> bytes:
    """Give the digest of a header with its additional segments, or of a data segment with its padding."""
    return digest_text(crc32c(data))


def padding_and_digest(data: Buffer) -> bytes:
    """Give what stands behind a data segment: its padding, and the digest over both."""
    padding = PADDING[len(data) & 3]
    value = crc32c(data)
    if padding:
        value = crc32c(padding, value)
    return padding + digest_text(value)
