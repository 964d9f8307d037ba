"""The console page in both browsers, on the screen of a real machine: what it shows, and when it ends."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from nanovirt.resources.client import Client
from tests.e2e.browsing import BROWSERS, Browser, browser
from tests.e2e.cluster import Cluster, instance, instance_key, real_cluster
from tests.e2e.looking import PATIENT, address, runs, until, until_answers
from tests.testbed import leftovers

pytestmark = pytest.mark.timeout(600)

PORTAL = "https://10.77.0.2:5850"
NAME = "screen"
CONNECTED = "document.querySelector('.live.connected') !== null"
CANVAS = "document.querySelector('.screen canvas')"
COMPARE = """
(async () => {
  const shown = document.querySelector(".screen canvas");
  const picture = new Image();
  picture.src = "data:image/png;base64,%s";
  await picture.decode();
  const draw = (what, width, height) => {
    const canvas = document.createElement("canvas");
    canvas.width = width;
    canvas.height = height;
    const context = canvas.getContext("2d");
    context.drawImage(what, 0, 0);
    return context.getImageData(0, 0, width, height).data;
  };
  const { naturalWidth: width, naturalHeight: height } = picture;
  if (shown.width !== width || shown.height !== height) return { same: 0, lit: 0 };
  const [a, b] = [draw(shown, width, height), draw(picture, width, height)];
  let same = 0, lit = 0;
  for (let at = 0; at < a.length; at += 4) {
    const far = [0, 1, 2].some((colour) => Math.abs(a[at + colour] - b[at + colour]) >= 8);
    if (!far) same += 1;
    if (b[at] + b[at + 1] + b[at + 2] > 100) lit += 1;
  }
  return { same: same / (width * height), lit };
})()
"""
RESET = f"""
(async () => {{
  const session = await (await fetch("/auth/session")).json();
  const headers = {{ "X-Nano-CSRF": session.spec.csrf }};
  const path = "/apis/nano/v1/namespaces/default/instances/{NAME}/console";
  return (await fetch(path, {{ method: "DELETE", headers }})).status;
}})()
"""


@pytest.fixture(scope="module")
def cluster(mini_guest: Path) -> Iterator[Cluster]:
    """A host with a machine that has a screen."""
    with real_cluster(mini_guest) as cluster:
        yield cluster
    assert leftovers() == []


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[Client]:
    """Of the administrator."""
    async with cluster.client() as client:
        yield client


@pytest.fixture(params=BROWSERS)
def page(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[Browser]:
    """Each browser in turn, on the network of the cluster."""
    del cluster
    with browser(request.param) as opened:
        yield opened


async def test_console_shows_the_screen_comes_back_after_a_restart_and_ends_when_reset(
    cluster: Cluster, client: Client, page: Browser
) -> None:
    key = instance_key(NAME)
    if page.name == BROWSERS[0]:
        await client.create(instance(NAME, scheduling={"host": "h1"}))
    doc = await until(client, key, runs)
    await until_answers(address(doc))
    await asyncio.to_thread(_log_in, page, cluster)
    await asyncio.to_thread(page.wait, f"{CONNECTED} && {CANVAS} !== null")
    await asyncio.to_thread(_compare, page, cluster)
    page.shot("console")
    assert page.problems() == []

    order = {"spec": {"restart": {"at": datetime.now(UTC).isoformat().replace("+00:00", "Z"), "mode": "Hard"}}}
    before = page.evaluate("window.__sockets.length")
    await client.patch(key, order)
    await asyncio.to_thread(page.wait, f"window.__sockets.length > {before} && {CONNECTED}")

    page.evaluate(RESET)
    await asyncio.to_thread(page.wait_text, "somebody has reset it")
    page.shot("console-reset")


def _log_in(page: Browser, cluster: Cluster) -> None:
    doc = yaml.safe_load(cluster.kubeconfig.read_text())
    token = next(user["user"]["token"] for user in doc["users"] if "token" in user["user"])
    page.goto(f"{PORTAL}/console/default/{NAME}")
    page.type("input[type=password]", token)
    page.click("button[type=submit]")


def _compare(page: Browser, cluster: Cluster) -> None:
    """Until the page's picture is the hypervisor's own, of a screen that shows something."""
    agent = cluster.agents["h1"]
    file = agent.host.dir / "screen.png"
    found = {}
    deadline = time.monotonic() + PATIENT
    while time.monotonic() < deadline:
        agent.virsh("screenshot", f"default.{NAME}", "--file", str(file))
        found = page.evaluate(COMPARE % base64.b64encode(file.read_bytes()).decode())
        if found["lit"] > 500 and found["same"] > 0.995:  # a cursor may blink between the two
            return
    raise AssertionError(json.dumps(found))
