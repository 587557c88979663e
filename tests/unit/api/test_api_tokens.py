"""The routes of join tokens: made, listed and revoked by the node's admission; a node of no cluster has none."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred

from csvd.api.routes import Answer, Request, Router
from csvd.api.tokens import TokenRoutes
from csvd.cluster.errors import CommandRefused


class Tokens:
    """Notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def tokens(self) -> list[dict[str, Any]]:
        return [{"id": "ab"}]

    async def create_token(self, *, life_s: int = 3600, is_witness: bool = False) -> dict[str, Any]:
        self.asked.append(("create", life_s, is_witness))
        return {"id": "ab", "token": "csvd1.x"}

    async def revoke_token(self, start: str) -> dict[str, Any]:
        self.asked.append(("revoke", start))
        if start == "00":
            raise CommandRefused("there is no such token")
        return {"id": start}


def ask(tokens: Tokens | None, method: str, path: str, body: dict[str, Any] | None = None) -> Answer:
    answers: list[Answer] = []
    request = Request(method, path, body=body or {})
    Deferred.fromCoroutine(Router(TokenRoutes(tokens).routes()).dispatch(request)).addCallback(answers.append)
    return answers[0]


def test_tokens_are_listed_made_and_revoked() -> None:
    tokens = Tokens()
    assert ask(tokens, "GET", "/v1/tokens").body == {"tokens": [{"id": "ab"}]}
    made = ask(tokens, "POST", "/v1/tokens", {"life_s": 60, "is_witness": True})
    assert (made.status, made.body["token"]) == (201, "csvd1.x")
    ask(tokens, "POST", "/v1/tokens")
    assert ask(tokens, "DELETE", "/v1/tokens/ab").body == {"id": "ab"}
    assert tokens.asked == [("create", 60, True), ("create", 3600, False), ("revoke", "ab")]
    assert ask(tokens, "DELETE", "/v1/tokens/00").status == 409


@pytest.mark.parametrize("body", [{"life_s": "1h"}, {"is_witness": 1}, {"other": 1}])
def test_a_body_that_is_not_right_is_refused(body: dict[str, Any]) -> None:
    tokens = Tokens()
    assert ask(tokens, "POST", "/v1/tokens", body).status == 400
    assert tokens.asked == []


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_node_of_no_cluster_has_no_tokens(method: str) -> None:
    answer = ask(None, method, "/v1/tokens")
    assert answer.status == 409
    assert "csvd init" in str(answer.body)
