"""A body that comes slowly: what counts is who may do what when it has come, not when the request began."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from nanovirt.resources.kind import Key
from nanovirt.resources.store import Delete, Half, Update
from tests.portal.api_world import NANO
from tests.portal.people_world import People, document, group, people_world, role

SECRETS = f"{NANO}/namespaces/team-a/secrets"
DOC = {"apiVersion": "nano/v1", "kind": "Secret", "metadata": {"name": "new", "namespace": "team-a"}, "spec": {}}
SET = {"kind": "Transaction", "writes": [{"verb": "create", "object": DOC}]}
LATE = [
    ("POST", SECRETS, DOC, "application/json"),
    ("POST", f"{NANO}/transactions", SET, "application/json"),
    ("PATCH", f"{SECRETS}/new?fieldManager=m", DOC, "application/apply-patch+yaml"),
]


@pytest.fixture
async def p() -> AsyncIterator[People]:
    async with people_world() as running:
        await running.user("alice")
        await running.does(role("all", (["secrets"], ["get", "create", "patch"])))
        await running.does(group("team", ["alice"], ["all"], ["team-a"]))
        yield running


async def slowly(p: People, late: tuple[str, str, Any, str], meanwhile: Any) -> int:
    """The code of a request of alice, half of whose body comes after `meanwhile`."""
    method, path, doc, kind = late
    content = json.dumps(doc).encode()

    async def pieces() -> AsyncIterator[bytes]:
        yield content[:20]
        await asyncio.sleep(0.1)
        await p.does(meanwhile)
        yield content[20:]

    headers = {"Authorization": f"Bearer {p.tokens['alice']}", "Content-Type": kind}
    async with p.session.request(method, p.base + path, data=pieces(), headers=headers) as response:
        return response.status


@pytest.mark.parametrize("late", LATE, ids=["create", "set", "apply"])
@pytest.mark.parametrize(
    ("meanwhile", "code"),
    [
        (Delete(Key("groups", "", "team")), 403),
        (Update(Key("users", "", "alice"), document("users", "alice", disabled=True).doc, Half.MAIN), 401),
        (document("namespaces", "other"), 201),
    ],
    ids=["no-rights", "disabled", "nothing"],
)
async def test_rights_that_end_while_a_body_comes_are_over(p: People, late: Any, meanwhile: Any, code: int) -> None:
    answered = await slowly(p, late, meanwhile)
    assert answered == (200 if late[1].endswith("transactions") and code == 201 else code)
    assert (p.store.peek(Key("secrets", "team-a", "new")) is not None) == (code == 201)


async def test_token_that_is_revoked_while_a_body_comes_makes_no_other(p: People) -> None:
    (revoked,) = [key for key, entry in p.store.list("credentials") if entry.row.user == "alice"]
    asked = ("POST", f"{NANO}/users/alice/token", {"description": "for later, and long enough"}, "application/json")
    assert await slowly(p, asked, Delete(revoked)) == 401
    assert not p.store.list("credentials")
