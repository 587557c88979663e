"""csvd token against prepared answers: only create prints the secret, on stdout alone."""

from __future__ import annotations

import json
import time
from typing import Any

from tests.unit.api.fake_daemon import FakeDaemon, error
from tests.unit.cli.conftest import Shell

ID = "ab" * 32


def record(left_s: float = 3600.5) -> dict[str, Any]:
    return {"id": ID, "expires_at_s": int(time.time() + left_s), "is_witness": False}


def test_create_prints_the_token_and_nothing_else_on_stdout(csvd: Shell, daemon: FakeDaemon) -> None:
    daemon.answers["POST /v1/tokens"] = (201, {**record(), "token": "csvd1.secret"})
    outcome = csvd("token", "create", "--expires", "15m", "--witness")
    assert (outcome.status, outcome.out) == (0, "csvd1.secret\n")
    assert outcome.err.startswith(f"token {ID[:12]} can be used once, within ")
    assert "secret" not in outcome.err
    assert daemon.bodies[-1] == {"life_s": 900, "is_witness": True}
    assert json.loads(csvd("token", "create", "--json").out)["token"] == "csvd1.secret"
    assert daemon.bodies[-1] == {"is_witness": False}


def test_tokens_are_listed_and_revoked_by_how_their_id_begins(csvd: Shell, daemon: FakeDaemon) -> None:
    daemon.answers["GET /v1/tokens"] = (200, {"tokens": [record(), {**record(), "is_witness": True}]})
    daemon.answers[f"DELETE /v1/tokens/{ID[:12]}"] = (200, {"id": ID})
    listed = csvd("token", "ls").out.splitlines()
    assert listed[0].split() == ["TOKEN", "FOR", "EXPIRES", "IN"]
    assert [line.split()[:2] for line in listed[1:]] == [[ID[:12], "node"], [ID[:12], "witness"]]
    assert csvd("token", "revoke", ID[:12]).out == f"token {ID[:12]} is revoked\n"


def test_what_the_node_refuses_is_one_line(csvd: Shell, daemon: FakeDaemon) -> None:
    daemon.answers["POST /v1/tokens"] = (409, error("this node is of no cluster", hint="csvd init"))
    outcome = csvd("token", "create")
    assert (outcome.status, outcome.out, outcome.err) == (1, "", "csvd: this node is of no cluster (csvd init)\n")
    assert csvd("token", "create", "--expires", "soon").status == 2
