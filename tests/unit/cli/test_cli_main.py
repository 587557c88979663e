"""The command line as a whole: help, wrong usage, errors as one line, and what is imported for it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from csvd.cli import main as main_module
from csvd.cli import options
from csvd.cli.main import COMMANDS, csvd
from csvd.cli.reference import reference
from csvd.errors import ConfigError
from tests.unit.api.fake_daemon import FakeDaemon
from tests.unit.cli.conftest import Shell

ROOT = Path(__file__).parents[3]


def every_command(command: click.Command = csvd, path: str = "csvd") -> list[tuple[str, click.Command]]:
    found = [(path, command)]
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            found += every_command(inner, f"{path} {name}")
    return found


def test_the_help_lists_every_command(shell: Shell) -> None:
    outcome = shell("--help")
    assert outcome.status == 0
    for name in COMMANDS:
        assert re.search(rf"^  {name} +\S", outcome.out, re.MULTILINE), name


@pytest.mark.parametrize(
    ("path", "command"), [(path, command) for path, command in every_command() if not isinstance(command, click.Group)]
)
def test_every_command_has_help_with_an_example(path: str, command: click.Command) -> None:
    text = command.help or ""
    assert "Examples:" in text
    assert "csvd" in text.partition("Examples:")[2]
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{path} {parameter.opts}"


PRINTING_TEXT_ONLY = {"csvd run", "csvd serve", "csvd config example", "csvd completion"}


def test_every_command_that_prints_facts_prints_json_too() -> None:
    for path, command in every_command():
        if not isinstance(command, click.Group) and path not in PRINTING_TEXT_ONLY:
            assert any("--json" in parameter.opts for parameter in command.params), path


def test_every_command_that_asks_a_daemon_lets_it_be_chosen() -> None:
    for path, command in every_command():
        noun = path.split()[1] if " " in path else ""
        if not isinstance(command, click.Group) and noun in ("status", "vm", "migrate", "session", "event"):
            assert any("--socket" in parameter.opts for parameter in command.params), path


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["vm"], ["vm", "create", "g"], ["status", "--nonsense"], ["migrate", "g"], ["run"]]
)
def test_wrong_usage_is_exit_2_with_the_usage(shell: Shell, arguments: list[str]) -> None:
    outcome = shell(*arguments)
    assert outcome.status == 2
    assert "Usage: csvd" in outcome.err
    assert "Traceback" not in outcome.err


def test_no_daemon_is_one_line_and_exit_1(shell: Shell, tmp_path: Path) -> None:
    outcome = shell("--socket", str(tmp_path / "none"), "status")
    assert outcome.status == 1
    assert outcome.out == ""
    assert outcome.err.startswith(f"csvd: {tmp_path}/none: no daemon answers: No such file or directory")
    assert outcome.err.count("\n") == 1


def test_the_daemon_is_chosen_by_option_else_environment_else_default(
    daemon: FakeDaemon, shell: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    daemon.answers["GET /v1/guests"] = (200, {"guests": []})
    assert shell("vm", "ls", "--socket", str(daemon.path)).status == 0
    assert shell("--socket", str(daemon.path), "vm", "ls").status == 0
    monkeypatch.setenv("CSVD_SOCKET", str(daemon.path))
    assert shell("vm", "ls").status == 0
    assert shell("vm", "ls", "--socket", str(tmp_path / "other")).status == 1
    monkeypatch.delenv("CSVD_SOCKET")
    monkeypatch.setattr(options, "DEFAULT_SOCKET", str(tmp_path / "default.sock"))
    assert "default.sock" in shell("vm", "ls").err


def test_what_an_error_quotes_can_not_move_the_cursor(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise ConfigError("a\x1b[2J\nb")

    monkeypatch.setattr(main_module.csvd, "main", fail)
    outcome = shell("status")
    assert outcome.err == "csvd: a�[2J�b\n"


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (KeyboardInterrupt(), 130, ""),
        (click.exceptions.Abort(), 130, ""),
        (BrokenPipeError(), 1, ""),
        (OSError(28, "No space left on device"), 1, "csvd: can not write: No space left on device\n"),
        (ZeroDivisionError("x"), 1, "csvd: a fault of csvd's own: ZeroDivisionError: x (CSVD_DEBUG=1 shows where)\n"),
    ],
)
def test_whatever_happens_there_is_no_traceback(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int, line: str
) -> None:
    monkeypatch.delenv("CSVD_DEBUG", raising=False)

    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(main_module.csvd, "main", fail)
    outcome = shell("status")
    assert (outcome.status, outcome.err) == (status, line)


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *arguments], text=True, capture_output=True, env=environment, check=False, timeout=60
    )


HEAVY = """
import sys
from csvd.cli.main import main
try:
    main(["--socket", "/nonexistent", *sys.argv[1:]])
except SystemExit:
    pass
heavy = sorted(name for name in sys.modules if name in ("twisted", "construct", "pysyncobj", "zope", "csvd.daemon"))
sys.exit(f"HEAVY {heavy}")
"""


@pytest.mark.parametrize(
    "arguments", [["--help"], ["status"], ["vm", "ls"], ["config", "example"], ["migrate", "g", "--to", "n"]]
)
def test_the_client_commands_import_nothing_heavy(arguments: list[str]) -> None:
    assert python("-c", HEAVY, *arguments).stderr.splitlines()[-1] == "HEAVY []"


def test_the_module_runs_and_tells_its_version() -> None:
    done = python("-m", "csvd", "--version")
    assert re.fullmatch(r"csvd (\d+\.\d+\.\d+|unknown)\n", done.stdout)


def test_a_reader_that_goes_away_is_no_fuss() -> None:
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {sys.executable} -m csvd config example | head -c 1"],
        capture_output=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
        timeout=60,
    )
    assert done.stdout == b"#"
    assert done.stderr == b""


def test_a_full_disk_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "csvd", "config", "example"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=False,
            timeout=60,
        )
    assert done.returncode == 1
    assert done.stderr == "csvd: can not write: No space left on device\n"


def test_the_reference_in_the_docs_is_what_the_commands_say() -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    assert page == reference(), "run: python -m csvd.cli.reference > docs/cli.md"
