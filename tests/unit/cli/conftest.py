"""Commands run in this process against a control socket with prepared answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from csvd.cli.main import main
from tests.unit.api.fake_daemon import FakeDaemon


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    status: int
    out: str
    err: str


class Shell:
    """Runs commands."""

    def __init__(self, capsys: pytest.CaptureFixture[str], socket: Path | None) -> None:
        self._capsys = capsys
        self._socket = socket

    def __call__(self, *arguments: str) -> Outcome:
        """Run ``csvd ARGUMENTS``."""
        before = ["--socket", str(self._socket)] if self._socket else []
        with pytest.raises(SystemExit) as ended:
            main([*before, *arguments])
        printed = self._capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Outcome(ended.value.code, printed.out, printed.err)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(tmp_path / "control.sock") as fake:
        yield fake


@pytest.fixture
def csvd(capsys: pytest.CaptureFixture[str], daemon: FakeDaemon) -> Shell:
    return Shell(capsys, daemon.path)


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    """Commands that ask no daemon, or choose their own."""
    monkeypatch.delenv("CSVD_SOCKET", raising=False)
    return Shell(capsys, None)
