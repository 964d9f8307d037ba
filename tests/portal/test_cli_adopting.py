"""`nanoctl adopt`: what it says when there is no such domain, or no such host."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

from aiohttp import web

from nanovirt.resources.errors import NotFound
from nanovirt.resources.kind import Key
from tests.portal.cli_world import cluster


async def nothing_unclaimed(_request: Any, _subject: Any, key: Key) -> NoReturn:
    """As portal/api/adopting.py answers for a domain that no report of node-1 names."""
    if key.name != "node-1":
        raise NotFound("hosts.nano", key.name)
    raise NotFound("unclaimed", f"{key.name}/pet")


async def one_unclaimed(_request: Any, _subject: Any, key: Key) -> web.StreamResponse:
    """A domain on the first host, none on the second."""
    return web.json_response({"items": [{"name": "pet", "state": "Running"}] if key.name == "node-1" else []})


def test_what_can_be_adopted_is_listed_for_one_host_and_for_all(tmp_path: Path) -> None:
    with cluster(tmp_path, {("hosts", "unclaimed", "GET"): one_unclaimed}) as running:
        assert running.says("adopt") == "every domain of every host is claimed\n"
        for name in ("node-1", "node-2"):
            running.creates("hosts", name, spec={})
        assert running.says("adopt") == running.says("adopt", "node-1") == "node-1/pet  Running\n"
        assert running.says("adopt", "node-2") == "every domain of node-2 is claimed\n"
        assert running.nanoctl("adopt", "node-1/").exit_code == 2


def test_domain_that_is_not_there_is_said_with_the_command_that_lists_them(tmp_path: Path) -> None:
    with cluster(tmp_path, {("hosts", "adopt", "POST"): nothing_unclaimed}) as running:
        running.creates("hosts", "node-1", spec={})
        said = running.nanoctl("adopt", "node-1/pet")
        assert (said.exit_code, "`nanoctl adopt node-1` lists them" in said.output) == (2, True), said.output
        assert '"node-9" not found' in running.nanoctl("adopt", "node-9/pet").output
