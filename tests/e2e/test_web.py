"""The portal in real browsers, on a real server with simulated hosts: session, live list, policy, both languages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.browsing import BROWSERS, Browser, browser
from tests.e2e.server_process import ServerProcess, running_server

pytestmark = pytest.mark.timeout(300)

MANY = 60
ROWS = "document.querySelectorAll('.sizer .row').length"
PASSWORD = "input[type=password]"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with machines on three simulated hosts."""
    folder = tmp_path_factory.mktemp("web")
    with running_server(folder / "data", "--simulated-hosts", "3") as running:
        docs = [machine(f"web-{number}") for number in range(MANY)]
        docs[7]["spec"]["displayName"] = "机房 7 号"
        manifest = folder / "many.yaml"
        manifest.write_text(yaml.safe_dump_all(docs))
        running.nanoctl("apply", "-f", manifest)
        yield running


@pytest.fixture(params=BROWSERS)
def page(request: pytest.FixtureRequest) -> Iterator[Browser]:
    """Each browser in turn."""
    with browser(request.param) as opened:
        yield opened


def machine(name: str) -> dict[str, Any]:
    """A small Instance with an address."""
    spec = {"memory": "64Mi", "disks": [{"name": "system", "size": "1Gi"}]}
    return {"apiVersion": "nano/v1", "kind": "Instance", "metadata": {"name": name}, "spec": spec}


def make(server: ServerProcess, folder: Path, name: str) -> None:
    """Another Instance, from elsewhere."""
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(machine(name)))
    server.nanoctl("apply", "-f", file)


def token_of(server: ServerProcess) -> str:
    """The administrator's token."""
    doc = yaml.safe_load(server.kubeconfig.read_text())
    return str(next(user["user"]["token"] for user in doc["users"] if "token" in user["user"]))


def log_in(page: Browser, server: ServerProcess) -> None:
    """From an empty profile to the list."""
    page.goto(f"https://localhost:{server.portal_port}/")
    page.type(PASSWORD, token_of(server))
    page.click("button[type=submit]")
    page.wait(f"{ROWS} > 10")


def test_login_list_language_and_logout(page: Browser, server: ServerProcess) -> None:
    page.goto(f"https://localhost:{server.portal_port}/")
    page.wait(f"document.querySelector('{PASSWORD}') !== null")
    page.shot("login")
    page.type(PASSWORD, "nano_wrong")
    page.click("button[type=submit]")
    page.wait_text("not known here")
    assert page.evaluate(f"document.querySelector('{PASSWORD}').value") == "nano_wrong", "what was typed is lost"
    problems = [one for one in page.problems() if "401" not in one]  # Chromium logs every refused request
    log_in(page, server)
    page.wait_text(f"{MANY} instances")
    assert page.evaluate(ROWS) < MANY, "only rows in sight are in the document"
    page.shot("list")
    page.dark(on=True)
    page.shot("list-dark")
    page.click("header button.quiet")
    page.wait_text("云主机")
    page.shot("list-zh")
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
    page.type("input[type=search]", "web-59")
    page.wait(f"{ROWS} === 1")
    assert page.evaluate("location.search") == "?q=web-59"
    page.goto(page.evaluate("location.href"))
    page.wait(f"{ROWS} === 1")
    assert page.evaluate("document.cookie") == "", "a script can read the cookie"
    assert not any("nano_" in one for one in page.evaluate("Object.values(localStorage)"))
    page.click("header button.quiet:last-child")
    page.wait(f"document.querySelector('{PASSWORD}') !== null")
    page.goto(f"https://localhost:{server.portal_port}/instances")
    page.wait(f"document.querySelector('{PASSWORD}') !== null")
    assert problems + page.problems() == []


def test_page_says_what_is_not_there_and_shows_names_for_people(page: Browser, server: ServerProcess) -> None:
    log_in(page, server)
    page.type("input[type=search]", "机房")
    page.wait(f"{ROWS} === 1")
    page.wait_text("1 of ")
    assert page.evaluate("document.querySelector('.sizer .row').firstChild.innerText") == "web-7 机房 7 号"
    page.goto(f"https://localhost:{server.portal_port}/console/default/absent")
    page.wait_text("There is no instance default/absent, or you may not see it.")
    page.goto(f"https://localhost:{server.portal_port}/console/%E0%A4%A/absent")
    page.wait_text("There is no instance %E0%A4%A/absent")
    assert [one for one in page.problems() if "404" not in one] == []


def test_list_is_live_and_heals_when_its_socket_is_cut(page: Browser, server: ServerProcess, tmp_path: Path) -> None:
    log_in(page, server)
    page.evaluate("window.__same = true")
    new = f"a-{page.name}"
    make(server, tmp_path, new)
    page.wait_text(new)
    page.wait(
        f"[...document.querySelectorAll('.sizer .row')].some("
        f"row => row.innerText.includes('{new}') && row.innerText.includes('Running'))"
    )
    for cut in range(3):
        sockets = page.evaluate("window.__sockets.length")
        page.evaluate("window.__sockets.at(-1).close()")
        page.wait(f"window.__sockets.length > {sockets} && document.querySelector('.live.live') !== null")
        make(server, tmp_path, f"{new}-{cut}")
        page.wait_text(f"{new}-{cut}")
    assert page.evaluate("window.__same") is True, "the page was loaded anew"
    server.nanoctl("delete", "instance", new, *(f"{new}-{cut}" for cut in range(3)))
    page.wait(f"!document.body.innerText.includes('{new}')")
    assert page.problems() == []


def test_server_that_starts_anew_asks_for_a_login_in_place(page: Browser, server: ServerProcess) -> None:
    log_in(page, server)
    page.type("input[type=search]", "web-5")
    server.stop()
    page.wait("document.querySelector('.live.reconnecting') !== null")
    server.start()
    page.wait("document.querySelector('.over') !== null")
    page.shot("over")
    page.type(PASSWORD, token_of(server))
    page.click(".over button[type=submit]")
    page.wait("document.querySelector('.over') === null && document.querySelector('.live.live') !== null")
    assert page.evaluate("document.querySelector('input[type=search]').value") == "web-5"
    page.wait(f"{ROWS} > 5")
