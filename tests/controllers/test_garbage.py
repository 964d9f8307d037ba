"""What is removed because nobody owns it any more, or because it is old."""

from __future__ import annotations

from datetime import timedelta

from nanovirt.controllers import garbage
from nanovirt.controllers.actions import LookAgain, Transact
from nanovirt.resources.defaults import made
from nanovirt.resources.event import EVENT_SECONDS, Event
from nanovirt.resources.kind import Key
from nanovirt.resources.store import Create, Delete
from nanovirt.resources.user import User
from nanovirt.resources.volume import Volume
from tests.controllers.universe import NOW, Universe

ORPHAN = {"apiVersion": "nano/v1", "kind": "Instance", "name": "gone", "uid": "6f1c4a57-0000-4000-8000-000000000000"}


def test_object_whose_owner_is_gone_is_deleted() -> None:
    universe = Universe()
    key = Key("volumes", "default", "gone.system")
    spec = {"storagePool": "local", "size": "1Gi", "file": "/v/a.qcow2"}
    metadata = {"name": key.name, "namespace": "default", "ownerReferences": [ORPHAN]}
    universe.stage(Create(key, {"metadata": metadata, "spec": spec}))
    universe.settle()
    assert key not in universe.keys


def test_tokens_go_with_their_user() -> None:
    universe = Universe()
    universe.create(made("User", "alice"))
    uid = universe.get(User, "alice").metadata.uid
    owner = {"apiVersion": "nano/v1", "kind": "User", "name": "alice", "uid": uid}
    metadata = {"name": "token", "ownerReferences": [owner]}
    spec = {"user": "alice", "userUid": uid, "digest": "0" * 64, "expires": "2027-01-01T00:00:00Z"}
    key = Key("credentials", "", "token")
    universe.stage(Create(key, {"metadata": metadata, "spec": spec}))
    universe.settle()
    assert key in universe.keys
    universe.stage(Delete(Key("users", "", "alice")))
    universe.settle()
    assert key not in universe.keys


def test_object_whose_owner_lives_stays() -> None:
    universe = Universe()
    universe.image()
    universe.host("node-1")
    universe.instance()
    universe.settle()
    volume = universe.get(Volume, "web-1.system", "default")
    assert list(garbage.plan(volume, universe.world, NOW)) == []


def test_event_is_removed_an_hour_after_it_happened_last() -> None:
    universe = Universe()
    universe.image()
    universe.host("node-1")
    universe.instance()
    universe.settle()
    (key,) = universe.all("events")
    event = universe.get(Event, key.name, key.namespace)
    assert (event.reason, event.involved_object.name, event.count) == ("Scheduled", "web-1", 1)
    assert list(garbage.plan(event, universe.world, NOW)) == [LookAgain(EVENT_SECONDS)]
    (action,) = garbage.plan(event, universe.world, NOW + timedelta(seconds=EVENT_SECONDS))
    assert isinstance(action, Transact)
