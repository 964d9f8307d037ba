"""Usage and metrics as people get them: who sees what, and nothing of a host that has fallen silent."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import make_mocked_request

from nanovirt.agent.answering import usage_routes
from nanovirt.agent.history import History
from nanovirt.portal.identity import ADMIN, Subject
from nanovirt.portal.metrics import Metrics
from nanovirt.portal.usage import Figures
from nanovirt.resources.engine import Engine
from nanovirt.resources.errors import Forbidden
from nanovirt.resources.kind import Key
from nanovirt.resources.report import HostReport
from nanovirt.resources.reports import Reports
from nanovirt.resources.store import Create
from nanovirt.resources.usage import Usage, reported
from tests.portal.relay_world import relay_world
from tests.portal.world import commit, document, host, listening, placement, running_store

MACHINE = "00000000-0000-4000-8000-000000000001"
WEB = Key("instances", "default", "web")
BUSY = HostReport(usage=reported({MACHINE: Usage(1.5, 2**30, net_in=1000.0), "stranger": Usage(9.0)}, 3.0, 2**31))


class Clock:
    now = 7.0

    def __call__(self) -> float:
        return self.now


async def placed(store: Engine) -> None:
    await commit(store, host("h1"), host("h2"), Create(WEB, document(WEB, {"disks": []})), placement("web-1", "h1"))


async def asked(figures: Figures, store: Engine, path: str, subject: Subject = ADMIN) -> tuple[int, Any]:
    pages = {**figures.pages, **Metrics(store, figures, lambda _request: subject).pages}

    async def respond(request: web.Request) -> web.StreamResponse:
        if request.path in {page for _, page in pages}:
            return await pages["GET", request.path](request)
        plural, name = request.path.strip("/").split("/")
        hook = figures.instance if plural == "instances" else figures.host
        return await hook(request, subject, Key(plural, "default" if plural == "instances" else "", name))

    async with (
        listening(respond) as port,
        ClientSession() as client,
        client.get(f"http://127.0.0.1:{port}{path}") as response,
    ):
        text = await response.text()
        return response.status, (await response.json()) if response.content_type == "application/json" else text


async def test_who_may_not_list_instances_is_told_so_instead_of_nothing() -> None:
    async with running_store() as store:
        stranger = Subject("stranger", ())
        figures = Figures(store, Reports(0.0), lambda _request: stranger, clock=Clock())
        with pytest.raises(Forbidden, match="may not list instances"):
            await figures.instances(make_mocked_request("GET", "/usage/instances?namespace=default"))


async def test_figures_go_from_report_to_people() -> None:
    async with running_store() as store:
        await placed(store)
        reports, clock = Reports(0.0), Clock()
        figures = Figures(store, reports, lambda _request: ADMIN, clock=clock)
        reports.hear("h1", BUSY, 6.0)
        code, found = await asked(figures, store, "/usage/instances")
        assert code == 200
        [line] = found["items"]
        assert (line["namespace"], line["name"], line["host"]) == ("default", "web", "h1")
        assert (line["cpu"], line["memory"], line["netIn"]) == (1.5, 2**30, 1000.0)
        assert (await asked(figures, store, "/usage/instances?namespace=other"))[1]["items"] == []
        [line] = (await asked(figures, store, "/usage/hosts"))[1]["items"]
        assert (line["name"], line["hostCpu"], line["hostMemory"], line["cpu"]) == ("h1", 3.0, 2**31, 10.5)
        assert (await asked(figures, store, "/instances/web"))[1]["cpu"] == 1.5
        assert (await asked(figures, store, "/hosts/h1"))[1]["hostCpu"] == [3.0]
        clock.now = 60.0
        assert (await asked(figures, store, "/usage/instances"))[1]["items"] == [], "silence is not idleness"
        assert (await asked(figures, store, "/instances/web"))[1]["cpu"] is None


async def test_machine_that_comes_later_is_known_then() -> None:
    async with running_store() as store:
        reports = Reports(0.0)
        figures = Figures(store, reports, lambda _request: ADMIN, clock=lambda: 7.0)
        reports.hear("h1", BUSY, 6.0)
        assert list(figures.every()) == []
        await placed(store)
        assert [key for _, key, _ in figures.every()] == [WEB]


async def test_metrics_name_instances_and_hosts_for_who_may_see_them() -> None:
    async with running_store() as store:
        await placed(store)
        reports = Reports(0.0)
        figures = Figures(store, reports, lambda _request: ADMIN, clock=lambda: 7.0)
        reports.hear("h1", BUSY, 6.0)
        code, text = await asked(figures, store, "/metrics")
        assert code == 200
        assert 'nano_instance_cpu_cores{host="h1",instance="web",namespace="default"} 1.5' in text
        assert 'nano_host_up{host="h1"} 1.0' in text
        assert 'nano_host_up{host="h2"} 0.0' in text
        assert 'nano_objects{kind="hosts"} 2.0' in text
        stranger = await asked(figures, store, "/metrics", Subject("stranger", ()))
        assert "web" not in stranger[1]
        assert "nano_host" not in stranger[1]
        assert (await asked(figures, store, "/metrics", Subject("host:x", (), host="h1"))) == (400, "Forbidden")


@pytest.mark.parametrize("query", ["from=x", "from=-1", "step=1e9", "to=99999999999999999"])
async def test_range_that_is_no_number_is_refused(query: str) -> None:
    async with running_store() as store:
        await placed(store)
        figures = Figures(store, Reports(0.0), lambda _request: ADMIN, clock=lambda: 7.0)
        assert await asked(figures, store, f"/instances/web?{query}") == (400, "Invalid")


async def test_past_is_asked_of_the_host_that_has_the_machine(tmp_path: Path) -> None:
    history = History(tmp_path / "usage")
    now = time.time()
    for at in range(0, 20, 2):
        history.add(now - at, {MACHINE: Usage(cpu=0.5)})
    async with relay_world(tmp_path / "pki", usage_routes(history)) as w:
        figures = Figures(w.store, w.reports, lambda _request: ADMIN, w.relay, clock=lambda: 7.0)
        code, found = await asked(figures, w.store, f"/instances/web?from={now - 10:.0f}&to={now:.0f}&step=2")
        assert (code, found["step"]) == (200, 2)
        assert len(found["time"]) == len(found["cpu"]) > 3
        assert set(found["cpu"]) <= {0.5, None}
        assert 0.5 in found["cpu"]
        assert (await asked(figures, w.store, "/instances/web?from=1&to=2"))[0] == 400
    history.close()
