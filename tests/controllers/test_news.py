"""Events: what is told of a life, of trouble and of its end, and that telling costs no transaction of its own."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

from nanovirt.controllers import news
from nanovirt.resources.address_pool import AddressPool
from nanovirt.resources.defaults import made
from nanovirt.resources.event import Event
from nanovirt.resources.kind import Key
from nanovirt.resources.report import ImageProgress, StorageFact
from nanovirt.resources.store import Commit
from tests.controllers.universe import Universe, obeyed

WEB = Key("instances", "default", "web-1")
PLACED = Key("placements", "default", "web-1-1")


def events(universe: Universe, kind: str = "Instance", name: str = "web-1") -> list[Event]:
    found = [universe.get(Event, key.name, key.namespace) for key in universe.all("events")]
    return [event for event in found if (event.involved_object.kind, event.involved_object.name) == (kind, name)]


def told(universe: Universe, kind: str = "Instance", name: str = "web-1") -> list[tuple[str, str]]:
    """Type and reason, in the order in which they were told first."""
    return [(event.type, event.reason) for event in events(universe, kind, name)]


def running(universe: Universe) -> None:
    universe.instance()
    universe.settle()
    obeyed(universe)
    universe.settle()


def test_life_of_an_instance_is_told_in_the_transactions_that_it_takes_anyway(one: Universe) -> None:
    """Twelve revisions, as many as without any telling; four of them carry an Event."""
    commits: list[Commit] = []
    one.engine.subscribe(commits.append, admitted=True)
    running(one)
    one.patch(WEB, powerState="Stopped")
    one.settle()
    obeyed(one)
    one.settle()
    one.delete(WEB)
    one.settle()
    assert told(one) == [
        ("Normal", "Scheduled"),
        ("Normal", "Started"),
        ("Normal", "StoppedAsDesired"),
        ("Normal", "Deleting"),
    ]
    obeyed(one)
    one.settle()
    assert WEB not in one.keys
    of_it = [commit for commit in commits if any("web-1" in change.key.name for change in commit.changes)]
    records = Counter(change.key.plural for commit in of_it for change in commit.changes)
    assert all({change.key.plural for change in commit.changes} != {"events"} for commit in commits)
    assert (len(of_it), records["events"]) == (12, 4)


def test_settled_world_tells_nothing(one: Universe) -> None:
    running(one)
    before = {key: one.doc(key) for key in one.all("events")}
    one.now += timedelta(hours=2)
    one.monotonic += 5.0
    one.hear("node-1")
    assert [action for action in one.writes() if any(op.key.plural != "events" for op in action.ops)] == []
    assert {key: one.doc(key) for key in one.all("events")} == before


def test_what_is_missing_is_a_warning_once_however_often_it_is_looked_at(one: Universe) -> None:
    one.instance(memory="9Gi")
    for free in range(1, 30):
        one.host(f"small-{free:02}")
        one.now += timedelta(seconds=20)
        one.settle()
    (event,) = events(one)
    assert (event.type, event.reason, event.count) == ("Warning", "NoHostFits", 1)


def test_swinging_condition_is_counted_and_no_oftener_than_the_pause_allows(one: Universe) -> None:
    running(one)
    for _ in range(60):
        one.now += timedelta(seconds=1)
        one.report(PLACED, state="Failed", reason="HypervisorRefused", params={"host": "node-1", "detail": "no"})
        one.settle()
        one.report(PLACED, state="Running", reason="", params={})
        one.settle()
    counts = {event.reason: event.count for event in events(one)}
    assert counts == {"Scheduled": 1, "Started": 7, "HypervisorRefused": 6}


def test_details_that_are_never_the_same_make_a_bounded_number_of_events(one: Universe) -> None:
    running(one)
    for attempt in range(100):
        one.now += news.PAUSE
        params = {"host": "node-1", "detail": f"attempt {attempt}"}
        one.report(PLACED, state="Failed", reason="HypervisorRefused", params=params)
        one.settle()
        one.report(PLACED, state="Stopped", reason="", params={})
        one.settle()
    refused = [event for event in events(one) if event.reason == "HypervisorRefused"]
    assert news.KEPT_APART // 2 < len(refused) <= news.KEPT_APART
    assert sum(event.count for event in refused) == 100
    assert any("attempt 99" in event.message for event in refused), "the newest message stands"


def test_silent_host_and_its_return_are_told_of_the_host_and_of_its_machines(one: Universe) -> None:
    running(one)
    one.monotonic = 100.0
    one.settle()
    one.hear("node-1")
    one.settle()
    assert told(one)[2:] == [("Warning", "HostUnreachable"), ("Normal", "HostBack")]
    assert told(one, "Host", "node-1") == [("Normal", "Reporting"), ("Warning", "LeaseExpired")]


def test_machine_that_is_stopped_is_not_told_to_have_stopped_again_when_its_host_is_back(one: Universe) -> None:
    one.instance(powerState="Stopped")
    one.settle()
    obeyed(one)
    one.settle()
    one.monotonic = 100.0
    one.settle()
    one.now += 2 * news.PAUSE
    one.hear("node-1")
    one.settle()
    counts = {event.reason: event.count for event in events(one)}
    assert counts == {"Scheduled": 1, "StoppedAsDesired": 1, "HostUnreachable": 1, "HostBack": 1}


def test_machine_that_is_back_and_has_crashed_meanwhile_tells_both(one: Universe) -> None:
    running(one)
    one.monotonic = 100.0
    one.settle()
    one.report(PLACED, state="Stopped", reason="Crashed", params={"detail": "killed", "policy": "Never"})
    one.hear("node-1")
    one.settle()
    assert told(one)[3:] == [("Normal", "HostBack"), ("Warning", "Crashed")]


def test_change_that_awaits_a_restart_and_the_restart_are_told(one: Universe) -> None:
    running(one)
    one.patch(WEB, cpus=2)
    one.report(PLACED, state="Running", awaiting=[{"path": "spec.cpus", "current": 1, "desired": 2}])
    one.settle()
    one.patch(WEB, restart={"at": "2026-11-22T06:00:00Z", "mode": "Hard"})
    one.settle()
    one.now += news.PAUSE
    one.report(PLACED, restartedAt="2026-11-22T06:00:00Z", awaiting=[])
    one.settle()
    assert told(one)[2:] == [("Normal", "RestartNeeded")]
    assert {event.reason: event.count for event in events(one)}["Started"] == 2


def test_step_that_failed_while_it_runs_and_then_succeeded_is_no_start(one: Universe) -> None:
    running(one)
    one.report(PLACED, state="Running", reason="DiskFull", params={"host": "node-1", "path": "/v"})
    one.settle()
    one.report(PLACED, state="Running", reason="", params={})
    one.settle()
    assert told(one)[2:] == [("Warning", "DiskFull"), ("Normal", "AsDesired")]


def test_pool_tells_when_it_is_full_and_when_there_is_room_again(one: Universe) -> None:
    one.patch(Key("addresspools", "", "lan"), ranges=[{"name": "a", "first": "10.87.0.2", "last": "10.87.0.2"}])
    one.settle()
    assert told(one, "AddressPool", "lan") == []
    running(one)
    one.patch(Key("addresspools", "", "lan"), ranges=[{"name": "a", "first": "10.87.0.2", "last": "10.87.0.9"}])
    one.settle()
    assert told(one, "AddressPool", "lan") == [("Warning", "AddressesExhausted"), ("Normal", "AddressesFree")]
    assert one.get(AddressPool, "lan").status.free == 7


def test_host_tells_of_its_hypervisor_and_storage(one: Universe) -> None:
    bad = StorageFact(path="/v", error="read-only")
    one.hear("node-1", hypervisor_error="libvirtd is away", storage=[bad])
    one.settle()
    one.hear("node-1")
    one.settle()
    assert told(one, "Host", "node-1") == [
        ("Normal", "Reporting"),
        ("Warning", "HypervisorDown"),
        ("Warning", "StoragePathUnusable"),
        ("Normal", "StorageReady"),
    ]
    assert told(one, "ComputePool", "default") == [("Normal", "PoolReady"), ("Warning", "NoReadyHosts")]


def test_pool_that_has_no_hosts_yet_is_no_news() -> None:
    universe = Universe()
    universe.settle()
    assert universe.all("events") == []


def test_image_tells_how_it_became_ready_or_was_refused() -> None:
    universe = Universe()
    universe.create(made("Image", "a", "default", source={"upload": {}}))
    universe.settle()
    done = ImageProgress(phase="Ready", size=5, virtual_size=1024, sha256="b" * 64, format="qcow2")
    steps = [ImageProgress(phase="Uploading", received=received, total=20) for received in range(0, 20, 2)]
    for step in (*steps, ImageProgress(phase="Failed", detail="it has a backing file"), done):
        universe.reports.note_image(Key("images", "default", "a"), step)
        universe.settle()
    said = [("Normal", "Uploading"), ("Warning", "ImageRejected"), ("Normal", "ImageReady")]
    assert told(universe, "Image", "a") == said


def test_every_word_that_is_told_is_in_the_closed_list_and_its_sentence_is_filled_in(one: Universe) -> None:
    running(one)
    one.delete(WEB)
    one.settle()
    found = [one.get(Event, key.name, key.namespace) for key in one.all("events")]
    assert found
    assert [event.message for event in found if "?" in event.message] == []
    assert {event.source.component for event in found} <= {"instances", "hosts", "pools", "images"}
