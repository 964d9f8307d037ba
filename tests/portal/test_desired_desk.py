"""`nanoctl desired` and the paths behind it: what the administrator is told, and what nobody else is."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, TCPConnector, web

from nanovirt.portal.api.failures import refusal
from nanovirt.portal.desired.desk import PATH, pages
from nanovirt.portal.identity import ADMIN, Subject
from nanovirt.portal.membership import Rights
from nanovirt.resources.codec import JSON
from nanovirt.resources.errors import NanoError
from tests.portal import world as listening_world
from tests.portal.cli_world import Cluster, cluster
from tests.portal.desired_world import machine, text, world
from tests.portal.desired_world import web as key_of

ALICE = Subject("alice", (), rights=Rights({}, (), 0))


@pytest.mark.parametrize(("subject", "code"), [(ADMIN, 200), (ALICE, 403)])
async def test_only_the_administrator_sees_and_prunes(tmp_path: Path, subject: Subject, code: int) -> None:
    async with world(tmp_path) as here:
        here.put("web.yaml", machine("web-1"), machine("web-2"))
        await here.see()
        here.put("web.yaml", machine("web-1"))
        await here.see()
        answers = pages(here.desired, lambda _request: subject)

        async def respond(request: web.Request) -> web.StreamResponse:
            try:
                return await answers[request.method, request.path](request)
            except NanoError as error:
                return refusal(error)

        async with listening_world.listening(respond) as port, ClientSession(connector=TCPConnector()) as session:
            url = f"http://127.0.0.1:{port}{PATH}"
            async with session.get(url) as reply:
                assert reply.status == code
                told: Any = await reply.json()
            vanished = [{"kind": "Instance", "namespace": "default", "name": "web-2"}]
            assert code == 403 or told["vanished"] == vanished
            async with session.post(f"{url}/prune", json={"objects": vanished}) as reply:
                assert reply.status == code
            assert here.store.get(key_of("web-2")).deleting == (code == 200)
            bodies: list[Any] = [{}, {"objects": []}, {"objects": [1]}, {"objects": [{"kind": "Nothing"}]}]
            for bad in bodies:
                async with session.post(f"{url}/prune", json=bad) as reply:
                    assert reply.status == (422 if code == 200 else 403)


@pytest.mark.timeout(240)
def test_nanoctl_says_how_the_directory_stands_and_prunes(tmp_path: Path) -> None:
    with cluster(tmp_path, desired=True) as here:
        folder = here.data / "desired"
        folder.mkdir(mode=0o755)
        _write(folder / "teams.yaml", text(*map(team, range(5))))
        _until(here, "FileApplied")
        said = here.nanoctl("desired", "status")
        assert said.exit_code == 0, said.output
        assert "Its 5 objects are as it says." in said.stdout
        _write(folder / "teams.yaml", text(team(0)))
        _until(here, "PruneOff")
        held = here.nanoctl("desired", "prune", "--yes")
        assert held.exit_code == 1
        assert "At most 3 go at once" in held.output
        assert here.nanoctl("desired", "prune", stdin="n\n").exit_code == 1
        done = here.says("desired", "prune", "--force", "--yes")
        assert "namespace/team-4 deleted" in done
        _write(folder / "bad.yaml", "[")
        _until(here, "FileBroken")
        said = here.nanoctl("desired", "status")
        assert said.exit_code == 1
        assert "bad.yaml" in said.stdout


def _write(file: Path, content: str) -> None:
    file.write_text(content)
    file.chmod(0o644)


def _until(here: Cluster, word: str) -> None:
    deadline = time.monotonic() + 60
    while word not in here.nanoctl("desired", "status").stdout:
        assert time.monotonic() < deadline, here.nanoctl("desired", "status").stdout
        time.sleep(0.1)


def team(number: int) -> JSON:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": f"team-{number}"}}
