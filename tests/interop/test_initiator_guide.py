"""docs/initiator.md: every example runs as it stands there, against served disks in place of those that it names."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench.targets import Chap, Export, Target, start_csvd

pytestmark = pytest.mark.interop

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "initiator.md"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAME = "iqn.2026-11.org.csvd:disk"
CHAP = Chap("joe", "opensesame12345", "san", "sesame-closes-54321")
RUN_S = 120

BLOCKS = FENCE.findall(GUIDE.read_text())
PROGRAMS = [code for language, code in BLOCKS if language == "python"]
SHELLS = [code for language, code in BLOCKS if language == "console" and "pip install" not in code]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What stands in the guide, and where it is here."""
    folder = tmp_path_factory.mktemp("guide")
    (folder / "plain").mkdir()
    (folder / "secured").mkdir()
    plain = Export(
        (folder / "a.img", folder / "b.img"), create="64M", options=("--iqn", NAME, "--portal", "127.0.0.1:0")
    )
    secured = Export((folder / "c.img",), create="64M", chap=CHAP, options=("--iqn", NAME))
    with start_csvd(plain, folder / "plain") as one, start_csvd(secured, folder / "secured") as other:
        first, second = one.portals
        yield {"192.0.2.7": first, "192.0.2.8": second, "san.example": other.portal}
        for target in (one, other):
            _ended_well(target)


def _ended_well(target: Target) -> None:
    assert target.stop() == 0
    assert "Traceback" not in target.log()


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with the files that the examples name."""
    for name, secret in (("joe.secret", CHAP.secret), ("san.secret", CHAP.target_secret)):
        (tmp_path / name).write_text(secret + "\n")
        (tmp_path / name).chmod(0o600)
    return tmp_path


def placed(code: str, places: dict[str, str]) -> str:
    for name, portal in places.items():
        code = re.sub(rf"{re.escape(name)}(:3260)?\b", portal, code)
    return code


def run(here: Path, *command: str) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=here, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=RUN_S
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr


@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_a_program_of_the_guide_runs(number: int, places: dict[str, str], here: Path) -> None:
    run(here, sys.executable, "-W", "error", "-c", placed(PROGRAMS[number], places))


@pytest.mark.parametrize("number", range(len(SHELLS)))
def test_the_commands_of_the_guide_run(number: int, places: dict[str, str], here: Path) -> None:
    code = placed(SHELLS[number], places)
    environment_free = code.replace("csv-initiator ", f"{sys.executable} -m initiator ")
    script = environment_free.replace("csvd serve", f"{sys.executable} -m csvd serve")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=here,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=RUN_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_every_example_of_the_guide_is_run() -> None:
    assert {language for language, _ in BLOCKS} <= {"python", "console", ""}
    assert len(PROGRAMS) >= 10
    assert len(SHELLS) >= 3
    # What has no language is no example: the form of a URL.
    assert [code for language, code in BLOCKS if not language] == [
        "iscsi://[user[%secret]@]host[:port]/target-name[/lun][?options]\n"
    ]
    assert sum("pip install" in code for _, code in BLOCKS) == 1


def test_the_links_within_the_guide_lead_somewhere() -> None:
    text = GUIDE.read_text()
    headings = {
        re.sub(r"[^a-z0-9 -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in text.splitlines()
        if line.startswith("#")
    }
    assert set(re.findall(r"\(#([^)]+)\)", text)) <= headings
