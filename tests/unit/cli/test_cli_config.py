"""csvd config and csvd completion: what needs no daemon."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Shell

ROOT = Path(__file__).parents[3]


def test_the_example_passes_the_check(shell: Shell, tmp_path: Path) -> None:
    path = tmp_path / "csvd.toml"
    path.write_text(shell("config", "example").out)
    outcome = shell("config", "check", str(path))
    assert (outcome.status, outcome.out, outcome.err) == (0, "ok\n", "")
    assert json.loads(shell("config", "check", str(path), "--json").out) == {"ok": True, "problems": []}


def test_every_problem_is_a_line_of_its_own_and_the_exit_is_1(shell: Shell, tmp_path: Path) -> None:
    path = tmp_path / "csvd.toml"
    path.write_text('[node]\nname = "N"\n[cluste]\n')
    outcome = shell("config", "check", str(path))
    assert outcome.status == 1
    assert outcome.out == ""
    first, second = outcome.err.splitlines()
    assert first == f"{path}: cluste: is not a known key (did you mean cluster?)"
    assert second.startswith(f"{path}: node.name: is a text 'N', not the name of a node")
    outcome = shell("config", "check", str(path), "--json")
    assert outcome.status == 1
    answer = json.loads(outcome.out)
    assert answer["ok"] is False
    assert [problem["where"] for problem in answer["problems"]] == [f"{path}: cluste", f"{path}: node.name"]


def test_a_file_that_is_not_there_is_a_problem(shell: Shell, tmp_path: Path) -> None:
    outcome = shell("config", "check", str(tmp_path / "none"))
    assert outcome.status == 1
    assert "No such file or directory" in outcome.err


def test_run_tells_the_first_problem_on_one_line(shell: Shell, tmp_path: Path) -> None:
    path = tmp_path / "csvd.toml"
    path.write_text("")
    outcome = shell("run", "--config", str(path))
    assert outcome.status == 1
    assert outcome.err.startswith(f"csvd: {path}: node.name: is missing")
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize("kind", ["bash", "zsh", "fish"])
def test_the_completion_script_is_clicks_own(shell: Shell, kind: str) -> None:
    outcome = shell("completion", kind)
    assert outcome.status == 0
    assert f"_CSVD_COMPLETE={kind}_complete" in outcome.out


def test_a_shell_completes_commands() -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "COMP_WORDS": "csvd vm mi",
        "COMP_CWORD": "2",
        "_CSVD_COMPLETE": "bash_complete",
    }
    done = subprocess.run(
        [sys.executable, "-m", "csvd"], env=environment, text=True, capture_output=True, check=False, timeout=60
    )
    assert done.stdout == "plain,migrate\n"
