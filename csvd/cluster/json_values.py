"""JSON values that are kept and replicated: checked, measured and copied. PURE."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from csvd.cluster.errors import ClusterError

MAXIMUM_DEPTH: Final = 16
MAXIMUM_INTEGER: Final = 2**63 - 1


class JsonError(ClusterError):
    """A value is not JSON, or too large; the sentence goes on from the name of the value."""


def copy_json_object(value: object, *, maximum_bytes: int) -> tuple[dict[str, Any], int]:
    """A deep copy of a JSON object, and its length in bytes as it is counted here.

    The length is an upper bound of the compact UTF-8 JSON text of strings without escapes; it is what limits are
    written for, and is the same on every node.

    Raises:
        JsonError: it is not a JSON object, it is nested deeper than 16, or it is longer than `maximum_bytes`.
    """
    if not isinstance(value, Mapping):
        raise JsonError("is not a JSON object")
    meter = _Meter(maximum_bytes)
    copied = meter.copy(value, 0)
    assert isinstance(copied, dict)
    return copied, maximum_bytes - meter.left_bytes


class _Meter:
    """Copies and counts; gives up as soon as the count is past the limit, so that a huge value costs little."""

    def __init__(self, maximum_bytes: int) -> None:
        self._maximum_bytes = maximum_bytes
        self.left_bytes = maximum_bytes

    def copy(self, value: object, depth: int) -> Any:
        if depth > MAXIMUM_DEPTH:
            raise JsonError(f"is nested deeper than {MAXIMUM_DEPTH}")
        if value is None or isinstance(value, bool):
            return self._counted(value, 5)
        if isinstance(value, str):
            return self._counted(value, len(_utf8(value)) + 3)
        if isinstance(value, int):
            if not -MAXIMUM_INTEGER - 1 <= value <= MAXIMUM_INTEGER:
                raise JsonError("has an integer of more than 64 bits")
            return self._counted(value, 21)
        if isinstance(value, float):
            if not math.isfinite(value):
                raise JsonError("has a number that is not finite")
            return self._counted(value, 25)
        if isinstance(value, Mapping):
            self._counted(None, 2)
            return {self._key(key): self.copy(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list | tuple):
            self._counted(None, 2)
            return [self.copy(item, depth + 1) for item in value]
        raise JsonError(f"has a {type(value).__name__}, which is not JSON")

    def _key(self, key: object) -> str:
        if not isinstance(key, str):
            raise JsonError("has a key that is not a string")
        self._counted(None, len(_utf8(key)) + 4)
        return key

    def _counted(self, value: Any, length_bytes: int) -> Any:
        self.left_bytes -= length_bytes
        if self.left_bytes < 0:
            raise JsonError(f"is longer than {self._maximum_bytes} bytes")
        return value


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise JsonError("has text that is not Unicode") from error
