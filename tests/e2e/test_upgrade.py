"""A server of this release on the folder of an older one: what is shipped arrives, and what people did stays."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from nanovirt.resources.defaults import defaults
from nanovirt.resources.engine import Engine
from nanovirt.resources.file_log import FileLog
from nanovirt.resources.registry import kinds
from nanovirt.resources.store import Create, transact
from tests.e2e.server_process import ServerProcess, running_server
from tests.portal.older_release import older

assert kinds()


async def _older_store(folder: Path) -> None:
    folder.mkdir(parents=True)
    log = FileLog.open(folder / "data")
    try:
        store = Engine(log)
        async with asyncio.TaskGroup() as group:
            committer = group.create_task(store.run())
            await transact(store, [Create(one.key, one.to_json()) for one in older()], "system:setup")
            committer.cancel()
    finally:
        log.close()


def _states(server: ServerProcess) -> dict[str, str]:
    rows = [line.split() for line in server.nanoctl("defaults").splitlines()[1:]]
    return {row[0]: row[1] for row in rows}


@pytest.mark.timeout(300)
def test_folder_of_an_older_release_is_served_with_what_this_one_ships(tmp_path: Path) -> None:
    asyncio.run(_older_store(tmp_path / "data"))
    with running_server(tmp_path / "data") as server:
        assert _states(server).keys() == {f"{one.facts.singular}/{one.metadata.name}" for one in defaults()}
        assert set(_states(server).values()) == {"AsShipped", "Yours"}
        role = json.loads(server.nanoctl("get", "role/operator", "-o", "json"))
        assert any("instances/console" in rule["kinds"] for rule in role["spec"]["rules"])
        told = server.nanoctl("timeline", "role/operator")
        assert "system:setup" in told
        assert "system:release" in told
        server.nanoctl("delete", "systemtemplate/legacy")
        server.nanoctl("delete", "role/viewer")
        server.kill()
        server.start()
        assert _states(server) | {"systemtemplate/legacy": "Deleted", "role/viewer": "Deleted"} == _states(server)
        server.stop()
        writers = [record["by"] for record in server.records()]
        assert (writers.count("system:setup"), writers.count("system:release")) == (1, 1)
