from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.bench import copies
from tests.bench.loads import LoadFailed
from tests.bench.rows import OURS, THEIRS
from tests.bench.samples import Sample, Samples
from tests.bench.table import copies as table_of_copies

KIB = 1024


def test_an_image_is_half_holes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "IMAGE_BYTES", 4 << 20)
    monkeypatch.setattr(copies, "RUN_BYTES", 1 << 20)
    image = tmp_path / "image"
    copies.image_of(image)
    data = image.read_bytes()
    assert len(data) == 4 << 20
    assert [any(data[at : at + (1 << 20)]) for at in range(0, len(data), 1 << 20)] == [True, False, True, False]
    assert image.stat().st_blocks * 512 == 2 << 20
    copies.image_of(image)
    assert image.read_bytes() != data


def test_the_time_of_a_copy_is_that_of_its_process() -> None:
    assert 0.05 <= copies.seconds([sys.executable, "-c", "import time; time.sleep(0.05)"]) < 30
    with pytest.raises(LoadFailed, match="exit status 3"):
        copies.seconds([sys.executable, "-c", "raise SystemExit(3)"])


def test_the_table_tells_both_directions_on_both_targets() -> None:
    figures = {"ours_s": 2.0, "qemu_s": 3.0, "qemu_default_s": 4.0, "to_qemu": 1.5}
    rows = ("copy-to-lun", "copy-from-lun")
    samples = Samples([Sample(row, name, 0, figures) for row in rows for name in (OURS, THEIRS)])
    text = table_of_copies(samples)
    assert text.count("1.50 (1.50–1.50)") == 4
    for words in ("to the LUN: csv-initiator copy", "from the LUN: qemu-img convert, not durable"):
        assert words in text
