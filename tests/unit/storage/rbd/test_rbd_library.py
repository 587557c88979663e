from __future__ import annotations

import importlib.machinery
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from csvd.errors import ConfigError
from csvd.storage.rbd import library
from csvd.storage.rbd.library import is_installed, load_library


class Nowhere:
    """Keeps Python from finding Ceph's modules by itself."""

    def find_spec(self, name: str, *_: object) -> None:
        if name in ("rados", "rbd"):
            raise ModuleNotFoundError(name)


@pytest.fixture(autouse=True)
def not_by_itself(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    kept = {name: module for name, module in sys.modules.items() if name in ("rados", "rbd")}
    for name in kept:
        del sys.modules[name]
    monkeypatch.setattr(sys, "meta_path", [Nowhere(), *sys.meta_path])
    monkeypatch.setattr(library, "find_spec", lambda name: None)
    yield
    for name in ("rados", "rbd"):
        sys.modules.pop(name, None)
    sys.modules.update(kept)


def test_where_they_are_not_it_says_what_to_install(tmp_path: Path) -> None:
    assert not is_installed("rbd", [str(tmp_path)])
    with pytest.raises(ConfigError, match="apt install python3-rbd"):
        load_library([str(tmp_path), str(tmp_path / "none")])


def test_those_of_another_python_are_told_of(tmp_path: Path) -> None:
    (tmp_path / "rados.cpython-36m-x86_64-linux-gnu.so").touch()
    assert is_installed("rados", [str(tmp_path)])
    with pytest.raises(ConfigError, match="for another Python only"):
        load_library([str(tmp_path)])


def test_what_is_no_module_is_told_of_and_leaves_nothing_behind(tmp_path: Path) -> None:
    broken = tmp_path / f"rados{importlib.machinery.EXTENSION_SUFFIXES[0]}"
    broken.write_bytes(b"not a shared object")
    with pytest.raises(ConfigError, match="can not be loaded") as wrong:
        load_library([str(tmp_path)])
    assert str(broken) in str(wrong.value)
    assert "rados" not in sys.modules
    assert str(tmp_path) not in sys.path
