"""What is removed because nobody owns it any more, or because it is old."""

from __future__ import annotations

from datetime import timedelta

from nanovirt.controllers import garbage
from nanovirt.controllers.actions import LookAgain, Transact
from nanovirt.resources.defaults import defaults, made
from nanovirt.resources.event import EVENT_SECONDS, Event
from nanovirt.resources.instance import Instance
from nanovirt.resources.kind import Key
from nanovirt.resources.metadata import FOREGROUND
from nanovirt.resources.store import Create, Delete, Update
from nanovirt.resources.system_template import SystemTemplate
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
    (key,) = (key for key in universe.all("events") if key.namespace == "default" and key.name.startswith("web-1."))
    event = universe.get(Event, key.name, key.namespace)
    assert (event.reason, event.involved_object.name, event.count) == ("Scheduled", "web-1", 1)
    assert list(garbage.plan(event, universe.world, NOW)) == [LookAgain(EVENT_SECONDS)]
    (action,) = garbage.plan(event, universe.world, NOW + timedelta(seconds=EVENT_SECONDS))
    assert isinstance(action, Transact)


def template(name: str, *finalizers: str, owner: str = "", blocks: bool = True) -> Create:
    key = Key("systemtemplates", "", name)
    metadata: dict[str, object] = {"name": name, "finalizers": list(finalizers)}
    if owner:
        reference = {**ORPHAN, "kind": "SystemTemplate", "name": owner, "uid": uid(owner), "blockOwnerDeletion": blocks}
        metadata["ownerReferences"] = [reference]
    return Create(key, {"metadata": {**metadata, "uid": uid(name)}, "spec": {}})


def uid(name: str) -> str:
    return f"6f1c4a57-0000-4000-8000-{name.encode().hex():>012}"


def end(universe: Universe, name: str) -> None:
    universe.stage(Delete(Key("systemtemplates", "", name)))
    universe.settle()


def there(universe: Universe) -> set[str]:
    return {key.name for key in universe.all("systemtemplates")} - {thing.metadata.name for thing in defaults()}


def test_owner_deleted_in_the_foreground_waits_for_the_dependents_that_block_it() -> None:
    universe = Universe()
    universe.stage(template("owner", FOREGROUND), template("kept", "example.com/keep", owner="owner"))
    universe.stage(template("free", owner="owner"))
    end(universe, "owner")
    assert there(universe) == {"owner", "kept"}
    universe.stage(Update(Key("systemtemplates", "", "kept"), {"metadata": {"name": "kept"}, "spec": {}}))
    universe.settle()
    assert there(universe) == set()


def test_owner_does_not_wait_for_a_dependent_that_does_not_block() -> None:
    universe = Universe()
    universe.stage(template("owner", FOREGROUND), template("kept", "example.com/keep", owner="owner", blocks=False))
    end(universe, "owner")
    assert there(universe) == {"kept"}


def test_foreground_goes_down_the_family_tree() -> None:
    universe = Universe()
    universe.stage(template("owner", FOREGROUND), template("child", owner="owner"))
    universe.stage(template("kept", "example.com/keep", owner="child"))
    end(universe, "owner")
    assert there(universe) == {"owner", "child", "kept"}
    universe.stage(Update(Key("systemtemplates", "", "kept"), {"metadata": {"name": "kept"}, "spec": {}}))
    universe.settle()
    assert there(universe) == set()


def test_orphans_stay_and_forget_their_owner() -> None:
    universe = Universe()
    universe.stage(template("owner", "orphan"), template("child", owner="owner"))
    end(universe, "owner")
    assert there(universe) == {"child"}
    assert universe.get(SystemTemplate, "child").metadata.owner_references == ()


def test_what_an_instance_is_made_of_is_taken_down_by_its_own_controller() -> None:
    universe = Universe()
    universe.image()
    universe.host("node-1")
    universe.instance()
    universe.settle()
    instance = universe.get(Instance, "web-1", "default")
    doc = instance.to_json()
    doc["metadata"]["finalizers"].append(FOREGROUND)
    universe.stage(Update(instance.key, doc), Delete(instance.key))
    going = universe.get(Instance, "web-1", "default")
    assert list(garbage.plan(going, universe.world, NOW)) == []
