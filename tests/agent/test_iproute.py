"""The door to `ip`, with a program in its place that answers and refuses what a test says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nanovirt.agent.iproute import KernelSegments, links
from nanovirt.agent.segments import Segment
from nanovirt.resources.errors import HypervisorError

S40, S50 = Segment("br0", 40), Segment("br1", 50)
PROGRAM = """#!/bin/sh
cd '{folder}' || exit
if [ "$1" = -j ]; then exec cat listing; fi
number=0
while read -r line; do
    number=$((number + 1))
    if grep -qxF -- "$line" refused; then
        echo "RTNETLINK answers: Operation not permitted
Command failed -:$number" >&2
        exit 1
    fi
    echo "$line" >>taken
done
"""


class Ip:
    """What `ip` says of the devices, which lines it refuses, and which it took. It stops at the first it refuses."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        program = folder / "ip"
        program.write_text(PROGRAM.format(folder=folder))
        program.chmod(0o755)
        self.says("[]")
        self.refuses()

    def says(self, listing: str) -> None:
        (self._folder / "listing").write_text(listing)

    def has(self, *devices: dict[str, Any]) -> None:
        self.says(json.dumps(devices))

    def refuses(self, *lines: str) -> None:
        (self._folder / "refused").write_text("".join(f"{line}\n" for line in lines))

    def taken(self) -> list[str]:
        """The lines that were done since one asked last."""
        file = self._folder / "taken"
        lines = file.read_text().splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return lines


@pytest.fixture
def ip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ip:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return Ip(tmp_path)


@pytest.fixture
def door(tmp_path: Path) -> KernelSegments:
    return KernelSegments(tmp_path / "net", tmp_path / "settings")


def bridge(name: str, alias: str = "") -> dict[str, Any]:
    return {"ifname": name, "flags": ["UP"], "mtu": 1500, "ifalias": alias, "linkinfo": {"info_kind": "bridge"}}


@pytest.mark.parametrize(
    "listing",
    ["{", "{}x", "nothing", "null", "7", "[7]", "[null]", "[{}]", '{"ifname": "br0"}', '[{"ifname": "a", "mtu": "x"}]',
     '[{"ifname": "a", "linkinfo": null}]', '[{"ifname": "a", "flags": null}]'],
)  # fmt: skip
async def test_answer_that_cannot_be_read_is_a_complaint(ip: Ip, listing: str) -> None:
    ip.says(listing)
    with pytest.raises(HypervisorError, match="ip answers what cannot be read"):
        await links()


async def test_segment_that_was_made_and_never_wished_goes(ip: Ip, door: KernelSegments) -> None:
    """A machine may be given up between the making of its segment and the next look."""
    ip.has(bridge("br0"))
    assert not await door.settle()
    await door.make(S40)
    ip.has(bridge("br0"), bridge("br0.40", S40.alias))
    ip.taken()
    door.expect("machine", ())
    assert await door.settle()
    assert ip.taken() == ["link del dev br0.40"]


async def test_line_that_is_refused_stops_its_own_segment_alone(ip: Ip, door: KernelSegments) -> None:
    ip.has(bridge("br0"), bridge("br1"), bridge("old1.7", "nano:old1:7"), bridge("old2.7", "nano:old2:7"))
    ip.refuses("link add name br0.40 type bridge stp_state 0", "link del dev old1.7")
    door.expect("machine", (S40, S50))
    with pytest.raises(HypervisorError, match=r"not permitted \(ip link add name br0\.40 type bridge stp_state 0\)"):
        await door.settle()
    made = ["link add name br1.50 type bridge stp_state 0", f"link set dev br1.50 alias {S50.alias}"]
    finished = ["link set dev br1.50 mtu 1500", "link set dev br1.50 up"]
    assert ip.taken() == [*made, *finished, "link del dev old2.7"]


async def test_segments_are_settled_once_nothing_is_refused(ip: Ip, door: KernelSegments) -> None:
    ip.has(bridge("br0"))
    ip.refuses("link set dev br0.40 up")
    door.expect("machine", (S40,))
    with pytest.raises(HypervisorError):
        await door.settle()
    ip.refuses()
    assert await door.settle()
    ip.has(bridge("br0"), bridge("br0.40", S40.alias))
    assert not await door.settle()
