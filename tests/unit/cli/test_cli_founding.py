"""csvd init, join and token: what is said on the command line, and what must not stand there."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from csvd.cli.token import DURATION
from csvd.cluster.identity.files import has_identity
from csvd.cluster.identity.token import JoinToken

TOKEN = JoinToken.make(cluster="east", addresses=[("127.0.0.1", 1)], authority="ab" * 32, expires_at_s=2**33)


def csvd(
    *arguments: str, stdin: str | None = None, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "csvd", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, **(environment or {})},
    )


def test_init_makes_a_cluster_and_says_what_to_do_next(tmp_path: Path) -> None:
    state = str(tmp_path / "state")
    said = csvd("init", "--cluster", "east", "--state-directory", state, "--node", "n1", "--listen", "10.0.0.1:7001")
    assert (said.returncode, said.stderr) == (0, "")
    assert said.stdout.startswith("cluster east is made; this node is n1, and others find it at 10.0.0.1:7001\n")
    assert 'listen = "10.0.0.1:7001"' in said.stdout
    assert "csvd token create" in said.stdout
    assert has_identity(tmp_path / "state" / "cluster")
    again = csvd("init", "--cluster", "west", "--state-directory", state, "--node", "n1")
    assert again.returncode == 1
    assert again.stderr.startswith("csvd: ")
    assert "this node is n1 of cluster east already" in again.stderr
    assert len(again.stderr.splitlines()) == 1


def test_init_takes_the_node_from_its_configuration(tmp_path: Path) -> None:
    config = tmp_path / "csvd.toml"
    config.write_text('[node]\nname = "n7"\nstate_directory = "state"\n[cluster]\nlisten = "127.0.0.1:7007"\n')
    said = csvd("init", "--cluster", "east", "--config", str(config), "--json")
    assert said.returncode == 0, said.stderr
    made = json.loads(said.stdout)
    assert (made["cluster"], made["node"], made["address"]) == ("east", "n7", "127.0.0.1:7007")
    assert len(made["authority"]) == 64
    other = csvd("init", "--cluster", "east", "--config", str(config), "--node", "n8")
    assert (other.returncode, other.stderr) == (1, f"csvd: {config}: the configuration calls this node n7\n")


@pytest.mark.parametrize("command", ["init", "join"])
def test_a_node_with_workers_is_not_made_one_of_a_cluster_that_it_can_not_serve(tmp_path: Path, command: str) -> None:
    config = tmp_path / "csvd.toml"
    config.write_text('[node]\nname = "n7"\nstate_directory = "state"\nworkers = 2\n')
    words = ("init", "--cluster", "east") if command == "init" else ("join", "-")
    said = csvd(*words, "--config", str(config), stdin=TOKEN.text())
    assert said.returncode == 1
    assert said.stderr.startswith(f"csvd: {config}: node.workers is 2, and this node serves the targets of its cluster")
    assert "set it to 0" in said.stderr
    assert len(said.stderr.splitlines()) == 1
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        ([], 2, "--config FILE or --state-directory DIR"),
        (["--state-directory", "S", "--config", "C"], 2, "--config FILE or --state-directory DIR"),
        (["--state-directory", "S", "--listen", "0.0.0.0:7001"], 1, "say where by --advertise"),
        (["--state-directory", "S", "--listen", "nonsense"], 1, "HOST:PORT"),
        (["--state-directory", "S", "--node", "No Name"], 1, "can not be the name of a node"),
    ],
)
def test_what_can_not_be_is_one_clear_error(tmp_path: Path, options: list[str], status: int, words: str) -> None:
    placed = [option.replace("S", str(tmp_path / "S")) if option == "S" else option for option in options]
    said = csvd("init", "--cluster", "east", *placed)
    assert said.returncode == status
    assert words in said.stderr
    assert "Traceback" not in said.stderr


def test_a_running_daemon_holds_its_state(tmp_path: Path) -> None:
    lock = tmp_path / "daemon.lock"
    lock.write_text("4711\n")
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        for command in (["init", "--cluster", "east"], ["join", "-"]):
            said = csvd(*command, "--state-directory", str(tmp_path), "--node", "n1", stdin=TOKEN.text())
            assert said.returncode == 1
            assert "another daemon uses this state directory: its process is 4711" in said.stderr


def test_a_token_on_the_command_line_is_refused_with_how_to_give_it(tmp_path: Path) -> None:
    said = csvd("join", TOKEN.text(), "--state-directory", str(tmp_path), "--node", "n2")
    assert said.returncode == 2
    assert "csvd join - < FILE" in said.stderr.replace("\n", " ")
    assert TOKEN.text() not in said.stderr
    assert not list(tmp_path.iterdir())


def test_a_token_is_read_from_a_file_stdin_the_environment_or_a_credential(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.touch(0o600)
    path.write_text(TOKEN.text() + "\n")
    options = ["--state-directory", str(tmp_path / "state"), "--node", "n2"]
    tries = [
        csvd("join", str(path), *options),
        csvd("join", "-", *options, stdin=TOKEN.text() + "\n"),
        csvd("join", *options, environment={"CSVD_TOKEN_FILE": str(path)}),
        csvd("join", "${CREDENTIALS_DIRECTORY}/token", *options, environment={"CREDENTIALS_DIRECTORY": str(tmp_path)}),
    ]
    for said in tries:
        assert said.returncode == 1
        assert said.stderr.startswith("csvd: east: no node of the cluster let this one in: 127.0.0.1:1: ")
        assert len(said.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "mode", "words"),
    [
        (TOKEN.text(), 0o644, "others may read this secret"),
        ("hello", 0o600, "not a join token"),
        (TOKEN.text()[:-3], 0o600, "not whole"),
    ],
)
def test_a_bad_token_file_is_one_clear_error(tmp_path: Path, text: str, mode: int, words: str) -> None:
    path = tmp_path / "token"
    path.write_text(text)
    path.chmod(mode)
    said = csvd("join", str(path), "--state-directory", str(tmp_path / "state"), "--node", "n2")
    assert said.returncode == 1
    assert words in said.stderr
    assert str(path) in said.stderr
    assert text[6:] not in said.stderr or text == "hello"


def test_no_token_at_all_is_wrong_usage(tmp_path: Path) -> None:
    said = csvd("join", "--state-directory", str(tmp_path), environment={"CSVD_TOKEN_FILE": ""})
    assert said.returncode == 2
    assert "CSVD_TOKEN_FILE" in said.stderr


def test_a_time_is_a_number_with_its_unit() -> None:
    assert [DURATION(text) for text in ("90s", "15m", "1h", "7d")] == [90, 900, 3600, 604800]
    for text in ("", "1", "h", "1.5h", "-1h", "1w"):
        with pytest.raises(Exception, match="is not a time"):
            DURATION(text)
