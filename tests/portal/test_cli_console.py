"""What `nanoctl console` tells viewers, and people who start them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import pytest
from aiohttp import web

from nanovirt.portal.cli.console import settings, typed
from nanovirt.resources.errors import Conflict
from nanovirt.resources.kind import Key
from tests.portal.cli_world import cluster

SPEC = {"host": "10.0.0.1", "port": 5950, "user": "default/web", "token": "nano_x", "expiresSeconds": 120}


def test_line_for_tigervnc_has_the_password_in_the_environment_alone() -> None:
    line = typed(SPEC, Path("/home/me/.cache/nano/ca.crt"))
    assert line == (
        "VNC_USERNAME=default/web VNC_PASSWORD=nano_x "
        "vncviewer -SecurityTypes X509Plain -X509CA /home/me/.cache/nano/ca.crt 10.0.0.1::5950"
    )


def test_ipv6_address_stands_in_brackets() -> None:
    assert typed({**SPEC, "host": "fd00::1"}, Path("ca")).endswith("'[fd00::1]::5950'")


@pytest.mark.parametrize("line", ["type=vnc", "host=10.0.0.1", "port=5950", "username=default/web", "password=nano_x"])
def test_file_for_remote_viewer_says_all_and_is_removed(line: str) -> None:
    lines = settings(SPEC, "web").splitlines()
    assert lines[0] == "[virt-viewer]"
    assert line in lines
    assert "delete-this-file=1" in lines


async def silent(_request: Any, _subject: Any, key: Key) -> NoReturn:
    """As a host answers for a machine that is off."""
    raise Conflict("instances.nano", key.name, "it does not run, so there is nothing to be seen")


async def token(_request: Any, _subject: Any, _key: Key) -> web.StreamResponse:
    return web.json_response({"spec": SPEC}, status=201)


async def nothing(_request: Any, _subject: Any, _key: Key) -> web.StreamResponse:
    return web.Response(body=b"")


HOOKS = {
    ("instances", "screenshot", "GET"): silent,
    ("instances", "console", "POST"): token,
    ("instances", "log", "GET"): nothing,
}


def test_machine_that_is_off_is_said_to_be_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with cluster(tmp_path, HOOKS) as running:
        running.library()
        running.says("run", "web", "--image", "shared/mini")
        running.status("instances", "web", "default", phase="Stopped")
        refused = running.nanoctl("screenshot", "web")
        assert refused.stderr == "Error: instances/web: it does not run, so there is nothing to be seen\n"
        shown = running.nanoctl("console", "web", "--print")
        assert "instance/web is Stopped; there is nothing to be seen until it starts" in shown.stderr
        assert "VNC_PASSWORD=nano_x" in shown.stdout
        running.status("instances", "web", "default", phase="Running")
        assert "nothing to be seen" not in running.nanoctl("console", "web", "--print").stderr
        quiet = running.nanoctl("console", "web", "--log")
        assert (quiet.stdout, quiet.stderr) == ("", "instance/web has said nothing on its serial line\n")
