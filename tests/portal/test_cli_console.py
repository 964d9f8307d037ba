"""What `nanoctl console` tells viewers, and people who start them."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanovirt.portal.cli.console import settings, typed

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
