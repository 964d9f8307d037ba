"""A real server with `desired/` and `export/`: what is written into the one comes out of the other, over kills too."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.server_process import PATIENT, ServerProcess, running_server
from tests.portal.desired_world import machine, text


def _put(server: ServerProcess, name: str, content: str) -> None:
    file = server.folder / "desired" / name
    file.write_text(content)
    file.chmod(0o644)


def _told(server: ServerProcess) -> Any:
    return json.loads(server.nanoctl("desired", "status", "-o", "json"))


def _until(found: Callable[[], bool], server: ServerProcess) -> None:
    deadline = time.monotonic() + PATIENT
    while not found():
        assert time.monotonic() < deadline, _told(server)
        time.sleep(0.1)


@pytest.mark.timeout(300)
def test_what_is_desired_is_exported(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for name in ("desired", "export"):
        (folder / name).mkdir(mode=0o755, parents=True)
    exported = folder / "export" / "instances" / "default"
    with running_server(folder, "--desired-prune", "--simulated-hosts", "2") as server:
        _put(server, "web.yaml", text(machine("web-1", cpus=2), machine("web-2")))
        _until((exported / "web-2.json").exists, server)
        assert json.loads((exported / "web-1.json").read_text())["spec"]["cpus"] == 2
        assert _told(server)["conditions"][0]["reason"] == "DirectoryApplied"
        server.kill()
        _put(server, "web.yaml", text(machine("web-1", cpus=3)))
        server.start()
        _until(lambda: not (exported / "web-2.json").exists(), server)
        assert json.loads((exported / "web-1.json").read_text())["spec"]["cpus"] == 3
        shutil.rmtree(folder / "desired")
        _until(lambda: _told(server)["conditions"][0]["reason"] == "DirectoryMissing", server)
        assert (exported / "web-1.json").exists()
