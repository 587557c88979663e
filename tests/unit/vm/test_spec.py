"""What a guest is made of."""

from __future__ import annotations

from typing import Any

import pytest

from csvd.errors import ConfigError
from csvd.vm.spec import GuestSpec


def test_a_spec_goes_through_the_register_and_back() -> None:
    spec = GuestSpec(256 << 20, 2000.0, "shm")
    assert GuestSpec.from_json(spec.to_json()) == spec


def test_only_the_memory_has_to_be_said() -> None:
    assert GuestSpec.from_json({"memory_bytes": 1 << 20}) == GuestSpec(1 << 20, 0.0, "file", "process")


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ({}, "needs memory_bytes"),
        ({"memory_bytes": 4097}, "whole number of pages"),
        ({"memory_bytes": 0}, "whole number of pages"),
        ({"memory_bytes": True}, "whole number of pages"),
        ({"memory_bytes": "1G"}, "whole number of pages"),
        ({"memory_bytes": -4096}, "16 TiB"),
        ({"memory_bytes": 4096}, "16 TiB"),
        ({"memory_bytes": 1 << 50}, "16 TiB"),
        ({"memory_bytes": 1 << 20, "pages_per_s": -1}, "pages_per_s"),
        ({"memory_bytes": 1 << 20, "pages_per_s": float("nan")}, "pages_per_s"),
        ({"memory_bytes": 1 << 20, "pages_per_s": "fast"}, "pages_per_s"),
        ({"memory_bytes": 1 << 20, "backing": "tape"}, "backing"),
        ({"memory_bytes": 1 << 20, "driver": "xen"}, "driver"),
        ({"memory_bytes": 1 << 20, "colour": "red"}, "no setting 'colour'"),
    ],
)
def test_a_wrong_spec_is_refused(value: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        GuestSpec.from_json(value)
