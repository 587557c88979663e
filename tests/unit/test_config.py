"""The configuration: every key checked, every problem told, the defaults that depend on others, the docs."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csvd.cluster.timeouts import Timeouts
from csvd.config.load import MAX_FILE_BYTES, ConfigProblems, check_may_be_clustered, load, parse
from csvd.config.schema import Config, TimeoutsSection
from csvd.config.secrets import read_secret_file
from csvd.config.sections import REQUIRED, Key, Table, declarations
from csvd.config.targets import portal_groups
from csvd.config.text import default_words, example, reference
from csvd.config.values import MAX_SIZE_BYTES, format_size, parse_size
from csvd.errors import ConfigError

DOCS = Path(__file__).parents[2] / "docs"
NODE = '[node]\nname = "node1"\n'
TARGET = '[target]\nname = "iqn.2026-11.org.example:x"\n'
LUN = '[[target.lun]]\nnumber = 0\ndisk = "a.img"\n'


def read(text: str, directory: Path = Path("/etc/csvd")) -> Config:
    return parse(text, where="csvd.toml", directory=directory)


def problems(text: str, directory: Path = Path("/etc/csvd")) -> list[str]:
    with pytest.raises(ConfigProblems) as caught:
        read(text, directory)
    return [str(problem) for problem in caught.value.problems]


def secret(path: Path, data: bytes = b"0123456789abcdef", mode: int = 0o600) -> Path:
    path.write_bytes(data)
    path.chmod(mode)
    return path


# What a small file becomes


def test_a_name_is_all_that_a_node_needs() -> None:
    config = read(NODE)
    assert config.node.name == "node1"
    assert config.node.state_directory == Path("/var/lib/csvd")
    assert config.control.socket == Path("/var/lib/csvd/control.sock")
    assert config.control.mode == 0o600
    assert config.cluster.listen == "127.0.0.1:7001"
    assert config.cluster.timeouts.to_timeouts() == Timeouts()
    assert config.target == ()
    assert config.guests.directory == Path("/var/lib/csvd/guests")
    assert (config.guests.downtime_target_ms, config.guests.max_rounds) == (300, 30)
    assert config.guests.on_no_progress == "force"


def test_everything_listens_on_loopback_unless_told_otherwise() -> None:
    config = read(NODE + TARGET + LUN)
    assert len(config.target) == 1
    assert config.target[0].portals == ("127.0.0.1:3260",)
    assert config.cluster.listen.startswith("127.0.0.1:")


def test_the_others_find_a_node_where_it_listens_unless_it_says_otherwise() -> None:
    config = read('[cluster]\nlisten = "10.0.0.1:7"\n' + NODE)
    assert (config.cluster.listen, config.cluster.advertise) == ("10.0.0.1:7", "10.0.0.1:7")
    config = read('[cluster]\nlisten = "0.0.0.0:7"\nadvertise = "h:8"\n' + NODE)
    assert (config.cluster.listen, config.cluster.advertise) == ("0.0.0.0:7", "h:8")


@pytest.mark.parametrize("everywhere", ["0.0.0.0:7", "[::]:7"])
def test_a_node_that_listens_on_all_addresses_says_where_it_is_found(everywhere: str) -> None:
    (line,) = problems(f'[cluster]\nlisten = "{everywhere}"\n{NODE}')
    assert "cluster.advertise: is missing" in line


def test_the_portal_group_tag_is_one_unless_it_is_given() -> None:
    assert read(NODE + TARGET + LUN).target[0].portal_group_tag == 1
    assert read(NODE + TARGET + "portal_group_tag = 9\n" + LUN).target[0].portal_group_tag == 9


def test_the_keys_of_a_cluster_that_was_configured_tell_what_is_there_instead() -> None:
    old = '[cluster]\nsecret_file = "s"\n[cluster.members]\nnode1 = "h:1"\n'
    members, secret_file = problems(NODE + old)
    assert members.startswith("csvd.toml: cluster.members: is no key any more (take it out; csvd init makes a cluster")
    assert "csvd join TOKEN" in secret_file


def test_relative_paths_begin_at_the_directory_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "csvd.toml"
    path.write_text('[node]\nname = "n"\nstate_directory = "../state"\n' + TARGET + LUN)
    config = load(path)
    assert config.node.state_directory == tmp_path.parent / "state"
    assert len(config.target) == 1
    assert config.target[0].lun[0].disk == str(tmp_path / "a.img")


@pytest.mark.parametrize("url", ["iscsi://host:3260/iqn.2026-11.org.example:x/0", "rbd:pool/image", "/dev/sdb"])
def test_the_url_of_a_disk_stays_as_it_is(url: str) -> None:
    config = read(NODE + TARGET + LUN.replace("a.img", url))
    assert len(config.target) == 1
    assert config.target[0].lun[0].disk == url


def test_a_size_may_have_a_unit() -> None:
    config = read(NODE + TARGET + LUN + 'create = "1.5G"\n')
    assert len(config.target) == 1
    assert config.target[0].lun[0].create == 3 * 2**29


def test_names_of_targets_and_initiators_are_given_their_normal_form() -> None:
    text = TARGET.replace("example", "EXAMPLE") + 'initiators = ["IQN.2026-11.org.example:h"]\n'
    config = read(NODE + text + LUN)
    assert len(config.target) == 1
    assert config.target[0].name == "iqn.2026-11.org.example:x"
    assert config.target[0].initiators == ("iqn.2026-11.org.example:h",)


# What is wrong


def test_every_problem_is_told_with_file_and_key() -> None:
    found = problems(
        '[node]\nname = "No de"\nlog_levle = "info"\n[control]\nmode = "0666"\n'
        + TARGET
        + 'portals = []\n[[target.lun]]\nnumber = 99999\ndisk = "a"\n[guest]\n'
    )
    assert [line.split(": ")[1] for line in found] == [
        "guest",
        "node.log_levle",
        "node.name",
        "control.mode",
        "target.portals",
        "target.lun[0].number",
    ]
    assert all(line.startswith("csvd.toml: ") for line in found)


def test_the_error_of_a_file_with_several_problems_is_one_line_and_says_how_many() -> None:
    with pytest.raises(ConfigProblems) as caught:
        read("[node]\nname = 1\nx = 1\n[guests]\nmax_rounds = 0\n")
    assert str(caught.value).startswith("csvd.toml: node.x: is not a known key (known here: ")
    assert str(caught.value).endswith("; 2 more problems: csvd config check)")


@pytest.mark.parametrize(
    ("text", "key", "hint"),
    [
        (NODE + "[nodes]\n", "nodes", "did you mean node?"),
        (NODE + "[cluster]\nlisten_at = 1\n", "cluster.listen_at", "did you mean listen?"),
        (NODE + TARGET + LUN + "readonly = true\n", "target.lun[0].readonly", "did you mean read_only?"),
        (NODE + "[guests]\nzzz = 1\n", "guests.zzz", "known here: directory, "),
    ],
)
def test_an_unknown_key_is_a_problem_with_a_hint(text: str, key: str, hint: str) -> None:
    (line,) = problems(text)
    assert line.startswith(f"csvd.toml: {key}: is not a known key ({hint}")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "node.name: is missing"),
        ('node = "x"', "node: is not a table"),
        ("[node]\nname = 7", "node.name: is a whole number 7, not the name of a node"),
        ('[node]\nname = ""', "node.name: is a text ''"),
        ("[node\n", "csvd.toml: is not TOML: "),
        (NODE + "[cluster.timeouts]\ntick_s = 0", "cluster.timeouts.tick_s: is a whole number 0, not a number above 0"),
        (NODE + "[cluster.timeouts]\ntick_s = nan", "cluster.timeouts.tick_s: is a number nan"),
        (NODE + "[cluster.timeouts]\ntick_s = 5", "cluster.timeouts: tick_s (5.0 s) must be less than heartbeat_s"),
        (NODE + '[cluster.timeouts]\nping_s = "1"', "ping_s: is a text '1', not a number"),
        (NODE + "[cluster.timeouts]\nping_s = true", "ping_s: is a boolean True, not a number"),
        (NODE + '[cluster]\nlisten = "127.0.0.1"', "cluster.listen: is a text '127.0.0.1', not HOST:PORT"),
        (NODE + '[cluster]\nlisten = "::1:7001"', "write an IPv6 address in brackets"),
        (NODE + '[cluster]\nlisten = "h:0"', "cluster.listen: is a text 'h:0'"),
        (NODE + '[cluster]\nlisten = "h:65536"', "cluster.listen: is a text 'h:65536'"),
        (NODE + '[cluster]\nlisten = "h:70010000000000000"', "cluster.listen: is a text"),
        (NODE + TARGET + "lun = 3", "target.lun: is not an array of tables"),
        (NODE + '[target]\nname = "disk"\n' + LUN, "target.name: 'disk' is not an iSCSI name"),
        (NODE + TARGET + LUN + LUN, "target.lun[1].number: is 0, which is taken"),
        (NODE + TARGET + LUN + "block_bytes = 513", "block_bytes: is a whole number 513, not one of 512, 4096"),
        (NODE + TARGET + LUN + 'create = "10Q"', "create: '10Q' is not a size"),
        (NODE + TARGET + LUN + "create = 100", "create: is 100 bytes, not 512 to"),
        (NODE + TARGET + LUN + 'serial = "\\u00e4"', "serial: is a text 'ä', not 1 to 64 printable ASCII"),
        (NODE + TARGET + 'portals = ["h:1", "h:1"]\n' + LUN, "target.portals: names 'h:1' twice"),
        (NODE + TARGET + 'portals = ["::1"]\n' + LUN, "target.portals: is '::1', not HOST:PORT or HOST"),
        (NODE + TARGET + 'portals = "h"\n' + LUN, "target.portals: is a text 'h', not a list"),
        (NODE + '[guests]\non_no_progress = "wait"', "not one of force, abort"),
        (NODE + "[guests]\nmax_rounds = 0", "guests.max_rounds: is a whole number 0, not a whole number from 1"),
        (NODE + f'[control]\nsocket = "/{"x" * 107}"', "at most 107"),
        (
            NODE.replace("\n", "\nworkers = 65\n", 1),
            "node.workers: is a whole number 65, not a whole number from 0 to 64",
        ),
        (
            NODE.replace("\n", "\nworkers = 2\n", 1) + '[cluster]\nportals = ["10.0.0.1"]\n',
            "node.workers: is 2, and this node serves the targets of its cluster: the daemon itself has to serve them",
        ),
        (NODE.replace("\n", "\nstate_directory = '${CREDENTIALS_DIRECTORY}/x'\n", 1), "has no CREDENTIALS_DIRECTORY"),
    ],
)
def test_a_wrong_value_is_told_clearly(text: str, problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    lines = problems(text)
    assert any(problem in line for line in lines), lines


def test_workers_and_the_targets_of_a_cluster_do_not_go_together() -> None:
    workers = NODE.replace("\n", "\nworkers = 2\n", 1)
    with pytest.raises(ConfigError, match=r"^here: node\.workers is 2, .*cluster\.portals = \[\]"):
        check_may_be_clustered(read(workers), where="here")
    check_may_be_clustered(read(NODE), where="here")
    apart = read(workers + "[cluster]\nportals = []\n")
    assert apart.cluster.portals == ()
    check_may_be_clustered(apart, where="here")
    assert read(NODE).cluster.portals == ("127.0.0.1:3260",)


def test_a_socket_path_of_107_bytes_is_taken() -> None:
    path = "/" + "x" * 106
    assert read(NODE + f'[control]\nsocket = "{path}"').control.socket == Path(path)


def test_portals_may_take_a_free_port_and_leave_the_port_out() -> None:
    config = read(NODE + TARGET + 'portals = ["127.0.0.1:0", "[::1]:3261", "host", "[::2]"]\n' + LUN)
    assert len(config.target) == 1
    assert config.target[0].portals == ("127.0.0.1:0", "[::1]:3261", "host", "[::2]")


def test_a_deep_file_is_a_problem_and_not_a_crash() -> None:
    assert "is not TOML" in problems("a = " + "[" * 100_000)[0]


def test_a_file_that_can_not_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.toml: can not read the configuration: No such file"):
        load(tmp_path / "nothing.toml")
    with pytest.raises(ConfigError, match="Is a directory"):
        load(tmp_path)
    path = tmp_path / "big.toml"
    path.write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    with pytest.raises(ConfigError, match="it has more than 1048576 bytes"):
        load(path)
    path.write_bytes(b"# \xff")
    with pytest.raises(ConfigError, match="it is not UTF-8 at byte 2"):
        load(path)


# Several targets, and who may use them

TWO = "iqn.2026-11.org.example:y"


def test_several_targets_are_an_array_and_share_portals_by_the_tag_of_their_group() -> None:
    config = read(
        NODE
        + "[[target]]\n"
        + TARGET.removeprefix("[target]\n")
        + 'portals = ["h:1"]\n'
        + LUN
        + f'[[target]]\nname = "{TWO}"\nportals = ["h:2", "h:1"]\n'
        + '[[target.portal_group]]\ntag = 101\nportals = ["h:3"]\naccess_state = "standby"\n'
        + LUN
    )
    assert [target.name for target in config.target] == ["iqn.2026-11.org.example:x", TWO]
    assert [len(target.lun) for target in config.target] == [1, 1]
    assert portal_groups(config.target) == {1: ("h:1", "h:2"), 101: ("h:3",)}
    assert config.target[1].groups() == {1: ("h:2", "h:1"), 101: ("h:3",)}
    assert config.target[1].access_states() == {1: "active-optimized", 101: "standby"}


def test_a_target_with_groups_alone_listens_at_no_default_portal() -> None:
    config = read(NODE + TARGET + '[[target.portal_group]]\ntag = 1\nportals = ["h:3"]\n')
    assert portal_groups(config.target) == {1: ("h:3",)}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (f"[[target]]\n{TARGET[9:]}[[target]]\n{TARGET[9:]}", "target[1].name: is iqn.2026-11.org.example:x, which is"),
        (f"[[target]]\n{TARGET[9:]}[[target]]\nname = 'disk'\n", "target[1].name: 'disk' is not an iSCSI name"),
        (
            f'[[target]]\n{TARGET[9:]}portals = ["h:1"]\n[[target]]\nname = "{TWO}"\nportals = ["h:1"]\n'
            "portal_group_tag = 2\n",
            "target.portals: h:1 is in the portal groups 1 and 2",
        ),
        (
            TARGET + 'portals = ["h:1"]\n[[target.portal_group]]\ntag = 1\nportals = ["h:2"]\n',
            "target.portal_group: has the tag 1, which that of portals is, too",
        ),
        (TARGET + '[target.redirect]\naddress = "host:3260"\n', "target.redirect.address: is host:3260, a name"),
        (TARGET + 'networks = ["10.0.0.1/8"]\n', "target.networks: is '10.0.0.1/8', not an address or a network"),
        (TARGET + 'alias = "' + "é" * 128 + '"\n', "target.alias: has more than 255 bytes"),
        (TARGET + "[[target.acl]]\nluns = [0]\n", "target.acl[0].initiator: is missing"),
        (
            TARGET + f'[[target.acl]]\ninitiator = "{TWO}"\n[[target.acl]]\ninitiator = "{TWO.upper()}"\n',
            f"target.acl[1].initiator: is {TWO}, which is there already",
        ),
        (TARGET + LUN + 'naa = "60"\n', "naa: is a text '60', not 8 or 16 bytes in hexadecimal digits"),
        (TARGET + LUN + "rotation_rate = 2\n", "rotation_rate: is a whole number 2, not 0, 1, or"),
        (TARGET + LUN + 'provisioning = "thick"\n', "provisioning: is a text 'thick', not one of thin, full"),
        (
            TARGET + LUN + "physical_block_bytes = 512\nblock_bytes = 4096\n",
            "is 512, less than block_bytes, which is 4096",
        ),
        (
            TARGET + LUN + "create = 512\nblock_bytes = 4096\n",
            "create: is 512 bytes, no whole number of 4096-byte blocks",
        ),
        ("[keepalive]\nidle_s = 9\ndead_s = 8\n", "keepalive.dead_s: is 8 s, not longer than idle_s (9 s)"),
        ('[metrics]\nlisten = "h"\n', "metrics.listen: is a text 'h', not HOST:PORT"),
    ],
)
def test_what_can_not_be_of_targets_is_told_with_its_key(text: str, problem: str) -> None:
    lines = problems(NODE + text)
    assert any(problem in line for line in lines), lines


def test_a_redirect_to_a_portal_of_this_node_may_have_a_name() -> None:
    config = read(NODE + TARGET + '[target.redirect]\naddress = "host:3260"\nportal_group_tag = 7\n')
    assert config.target[0].redirect is not None


def test_the_two_ways_of_mutual_chap_need_two_secrets(tmp_path: Path) -> None:
    secret(tmp_path / "chap", b"long enough 12")
    secret(tmp_path / "same", b"long enough 12\n")
    mutual = '[target.chap]\nuser = "joe"\nsecret_file = "chap"\nmutual_user = "me"\n'
    (line,) = problems(NODE + TARGET + mutual, tmp_path)
    assert "target.chap.mutual_secret_file: is missing" in line
    (line,) = problems(NODE + TARGET + mutual + 'mutual_secret_file = "same"\n', tmp_path)
    assert "target.chap.mutual_secret_file: holds the same secret as secret_file" in line


# Secrets


def chap(directory: Path) -> str:
    return NODE + TARGET + '[target.chap]\nuser = "joe"\nsecret_file = "chap"\n' + LUN


def test_a_secret_that_others_may_read_is_a_problem(tmp_path: Path) -> None:
    secret(tmp_path / "chap", mode=0o644)
    (line,) = problems(chap(tmp_path), tmp_path)
    assert line.startswith("csvd.toml: target.chap.secret_file: can not be used: ")
    assert "others may read this secret" in line
    assert "chmod 600" in line


def test_a_secret_that_is_missing_or_of_a_wrong_length_is_a_problem(tmp_path: Path) -> None:
    assert "No such file" in problems(chap(tmp_path), tmp_path)[0]
    secret(tmp_path / "chap", b"short\n")
    assert "has 5 bytes, not 12 to 255" in problems(chap(tmp_path), tmp_path)[0]
    secret(tmp_path / "chap", b"long enough 12\n")
    config = read(chap(tmp_path), tmp_path)
    assert len(config.target) == 1
    assert config.target[0].chap is not None
    assert config.target[0].chap.secret_file == tmp_path / "chap"


def test_a_secret_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = secret(tmp_path / "s")
    owner = path.stat().st_uid
    assert read_secret_file(path) == b"0123456789abcdef"
    if owner == 0:
        os.chown(path, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(ConfigError, match="this secret belongs to user"):
        read_secret_file(path)


def test_a_credential_of_systemd_may_carry_the_group_right_of_its_acl(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    secret(tmp_path / "cluster.secret", b"0123456789abcdef\n", mode=0o440)
    chap = '[target.chap]\nuser = "joe"\nsecret_file = "${CREDENTIALS_DIRECTORY}/cluster.secret"\n'
    config = read(NODE + TARGET + chap + LUN, Path("/etc/csvd"))
    assert config.target[0].chap is not None
    assert config.target[0].chap.secret_file == tmp_path / "cluster.secret"
    assert read_secret_file(tmp_path / "cluster.secret") == b"0123456789abcdef"
    (tmp_path / "cluster.secret").chmod(0o444)
    with pytest.raises(ConfigError, match="others may read this secret"):
        read_secret_file(tmp_path / "cluster.secret")
    secret(tmp_path / "other.secret", b"\n", mode=0o440)
    with pytest.raises(ConfigError, match="a secret has 1 to 4096 bytes"):
        read_secret_file(tmp_path / "other.secret")


# Sizes


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0", 0),
        ("4096", 4096),
        ("64K", 65536),
        ("64k", 65536),
        ("256 MiB", 2**28),
        ("1.5G", 3 * 2**29),
        ("10GB", 10 * 2**30),
        ("2t", 2**41),
        ("0.5K", 512),
    ],
)
def test_sizes_are_read(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["", "K", "-1", "1e3", "1X", "0.3", "1.1K", "10 20", "٣", "9" * 50, "8192P", "inf"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_size(text)


@given(st.integers(0, MAX_SIZE_BYTES // 2**10), st.sampled_from(["", "K"]))
def test_a_whole_number_with_a_unit_is_exact(number: int, unit: str) -> None:
    assert parse_size(f"{number}{unit}") == number * (1024 if unit else 1)


@given(st.text(max_size=60))
def test_any_text_is_a_size_or_a_clear_error(text: str) -> None:
    size_bytes = 0
    with contextlib.suppress(ConfigError):
        size_bytes = parse_size(text)
    assert 0 <= size_bytes <= MAX_SIZE_BYTES


def test_sizes_are_shown_for_people() -> None:
    assert [format_size(n) for n in (0, 1023, 1024, 2**30 * 3 // 2, 2**60)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "1.5 GiB",
        "1024.0 PiB",
    ]


# The example and the docs


def test_the_example_passes_the_check_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "csvd.toml"
    path.write_text(example())
    config = load(path)
    assert config.node.name == "node1"
    assert len(config.target) == 1
    assert config.target[0].lun[0].create == 10 * 2**30


def test_the_example_passes_with_every_key_switched_on(tmp_path: Path) -> None:
    path = tmp_path / "csvd.toml"
    secret(tmp_path / "chap.secret")
    secret(tmp_path / "backing.secret")
    secret(tmp_path / "shared.secret")
    secret(tmp_path / "mutual.secret", b"another secret than that")
    path.write_text(re.sub(r"^#(?=[\[a-z])", "", example(), flags=re.MULTILINE))
    config = load(path)
    assert config.cluster.advertise == "10.0.0.1:7001"
    assert len(config.target) == 1
    assert config.target[0].chap is not None
    assert config.target[0].lun[0].serial == "shared-1"


def test_the_example_shows_defaults_as_they_are() -> None:
    """A value in the example that is neither a default nor for the reader to choose would mislead who copies it."""
    chosen = {"listen", "advertise", "socket", "create", "serial", "secret_file", "initiators", "directory"}
    chosen |= {"mutual_user", "mutual_secret_file", "alias", "networks", "luns", "physical_block_bytes", "vendor"}
    chosen |= {"product", "revision", "naa", "write_cache", "portals", "portal_groups"}
    chosen |= {"portal_group_tag", "disk_secret_file", "disk_initiator_name"}

    def check(section: type[object]) -> None:
        for name, item in declarations(section).items():
            if isinstance(item, Table):
                check(item.section)
            elif isinstance(item, Key) and name not in chosen and item.default is not REQUIRED:
                assert item.kind.read(tomllib.loads(f"value = {item.example}")["value"]) == item.default, name

    check(Config)


def test_every_key_has_a_meaning_an_example_and_a_default() -> None:
    def check(section: type[object]) -> None:
        for item in declarations(section).values():
            assert item.doc.endswith(".")
            if isinstance(item, Table):
                check(item.section)
            else:
                assert item.example
                assert default_words(item) != "None"

    check(Config)


def test_every_timeout_of_the_cluster_can_be_configured() -> None:
    assert list(declarations(TimeoutsSection)) == [field.name for field in dataclasses.fields(Timeouts)]


def test_the_reference_in_the_docs_is_what_the_code_says() -> None:
    page = (DOCS / "configuration.md").read_text()
    assert page == reference(), "run: python -m csvd.config.text > docs/configuration.md"


def test_the_secret_of_shared_disks_is_read_and_must_be_one(tmp_path: Path) -> None:
    text = NODE + '[cluster]\ndisk_secret_file = "shared"\ndisk_initiator_name = "iqn.2026-11.org.example:n"\n'
    secret(tmp_path / "shared", b"too short")
    (line,) = problems(text, tmp_path)
    assert "cluster.disk_secret_file" in line
    secret(tmp_path / "shared", b"long enough 12")
    cluster = read(text, tmp_path).cluster
    assert cluster.disk_secret_file == tmp_path / "shared"
    assert cluster.disk_initiator_name == "iqn.2026-11.org.example:n"
