"""Admission keeps the whole consistent: references, addresses in use, namespaces, what the system alone may write."""

from typing import Any

import pytest

from nanovirt.portal.api import zones
from nanovirt.portal.api.index import Index, card_claims, mentions
from nanovirt.resources.address import address_name
from nanovirt.resources.engine import Engine
from nanovirt.resources.host import Host
from nanovirt.resources.instance import Instance
from nanovirt.resources.kind import KINDS, Key
from nanovirt.resources.log import MemoryLog
from nanovirt.resources.shapes import shape_of
from nanovirt.resources.store import Create, Delete, Half, Update, transact
from tests.portal.api_world import INSTANCES, MERGE, NANO, Reply, World, instance, pool, world

POOLS = f"{NANO}/addresspools"
UID = "11111111-1111-1111-1111-111111111111"


def reasons(doc: Any) -> list[str]:
    return [cause["reason"] for cause in doc["details"].get("causes", [])]


def card(**nic: Any) -> dict[str, Any]:
    return instance("web-2", nics=[{"name": "lan", "addressPool": "lan", **nic}])


async def give_address(w: World, ip: str, mac: str = "52:54:00:00:00:01", owner: str = "default/web-1") -> None:
    spec = {"addressPool": "lan", "ip": ip, "mac": mac, "instance": owner, "instanceUid": UID, "nic": "lan"}
    await w.store_raw(Key("addresses", "", address_name("lan", ip)), {"spec": spec})


CARDS = [
    ("outside the ranges", {"ip": "10.20.0.10"}, "NotInRanges"),
    ("outside the subnet", {"ip": "10.99.0.10"}, "NotInRanges"),
    ("reserved", {"ip": "10.20.0.60"}, "AddressReserved"),
    ("in use", {"ip": "10.20.0.55"}, "AddressInUse"),
    ("asked for by another", {"ip": "10.20.0.56"}, "AddressInUse"),
    ("MAC in use", {"mac": "52:54:00:00:00:01"}, "MacInUse"),
    ("MAC asked for by another", {"mac": "52:54:00:00:00:02"}, "MacInUse"),
]


@pytest.mark.parametrize(("nic", "reason"), [case[1:] for case in CARDS], ids=[case[0] for case in CARDS])
async def test_card_that_cannot_be_is_refused(nic: dict[str, str], reason: str) -> None:
    async with world() as w:
        await w.make(POOLS, pool())
        await give_address(w, "10.20.0.55")
        wish = {"name": "lan", "addressPool": "lan", "ip": "10.20.0.56", "mac": "52:54:00:00:00:02"}
        await w.make(INSTANCES, instance("web-3", nics=[wish]))
        said = await w.call("POST", INSTANCES, card(**nic))
        assert (said.code, reasons(said.doc)) == (422, [reason]), said.doc
        assert said.doc["details"]["causes"][0]["params"]


async def test_own_address_may_be_asked_for_and_kept() -> None:
    async with world() as w:
        await w.make(POOLS, pool())
        await w.make(INSTANCES, card(ip="10.20.0.55", mac="52:54:00:00:00:01"))
        await give_address(w, "10.20.0.55", owner="default/web-2")
        said = await w.call("PATCH", f"{INSTANCES}/web-2", {"spec": {"cpus": 3}}, headers=MERGE)
        assert said.code == 200, said.doc


async def test_claims_end_with_the_instance() -> None:
    async with world() as w:
        await w.make(POOLS, pool())
        await w.make(INSTANCES, card(ip="10.20.0.55"))
        await w.store_raw(Key("instances", "default", "x"), {"spec": {}})
        ops = [Update(Key("instances", "default", "web-2"), {"metadata": {"finalizers": []}, "spec": {}})]
        w.store.stage(ops, "test")
        w.store.stage([Delete(Key("instances", "default", "web-2"))], "test")
        doc = card(ip="10.20.0.55")
        doc["metadata"]["name"] = "web-9"
        assert (await w.call("POST", INSTANCES, doc)).code == 201


@pytest.mark.parametrize(
    ("network", "subnet", "code"),
    [("default", "10.20.0.128/25", 422), ("other", "10.20.0.128/25", 201), ("default", "10.21.0.0/24", 201)],
)
async def test_pools_of_one_network_do_not_overlap(network: str, subnet: str, code: int) -> None:
    async with world() as w:
        await w.make(POOLS, pool())
        start = subnet.partition("/")[0].rpartition(".")[0]
        doc = pool("two", subnet, f"{start}.200", f"{start}.210")
        doc["spec"] |= {"network": network, "gateway": None, "reserved": []}
        said = await w.call("POST", POOLS, doc)
        assert said.code == code, said.doc
        if code == 422:
            assert reasons(said.doc) == ["SubnetOverlaps"]


async def test_ranges_go_on_holding_addresses_in_use() -> None:
    async with world() as w:
        made = await w.make(POOLS, pool())
        await give_address(w, "10.20.0.95")
        made["spec"]["ranges"][0]["last"] = "10.20.0.90"
        said = await w.call("PUT", f"{POOLS}/lan", made)
        assert (said.code, reasons(said.doc)) == (422, ["RangeHoldsAddressInUse"])
        assert "default/web-1" in said.doc["message"]
        made["spec"]["ranges"][0]["last"] = "10.20.0.98"
        assert (await w.call("PUT", f"{POOLS}/lan", made)).code == 200


async def test_gateway_is_no_address_that_an_instance_has() -> None:
    async with world() as w:
        made = await w.make(POOLS, pool())
        await give_address(w, "10.20.0.95")
        made["spec"]["gateway"] = "10.20.0.95"
        said = await w.call("PUT", f"{POOLS}/lan", made)
        assert (said.code, reasons(said.doc)) == (422, ["AddressInUse"])
        made["spec"]["gateway"] = "10.20.0.2"
        assert (await w.call("PUT", f"{POOLS}/lan", made)).code == 200


async def test_missing_reference_is_accepted_with_a_warning() -> None:
    async with world() as w:
        disks = [{"name": "system", "source": {"image": "shared/debian"}}]
        said = await w.call("POST", INSTANCES, instance(disks=disks))
        assert said.code == 201
        assert '299 - "spec.disks[0].source.image: Image shared/debian does not exist."' in said.warnings
        assert any("ComputePool default" in one for one in said.warnings)


def test_names_near_a_time_zone_are_looked_for_once() -> None:
    among = frozenset({"Asia/Shanghai", "Europe/Berlin"})
    before = zones._meant.cache_info().misses
    for _ in range(3):
        assert zones._meant("Asia/Shangai", frozenset(among)) == "; do you mean Asia/Shanghai?"
    assert zones._meant("Asia/Shangai", frozenset({"UTC"})) == ""
    assert zones._meant.cache_info().misses <= before + 2


async def test_time_zones_are_read_before_the_first_request() -> None:
    zones.known.cache_clear()
    async with world():
        assert zones.known.cache_info().currsize == 1


async def test_time_zone_that_the_server_does_not_know_is_warned_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zones, "known", lambda: frozenset({"Asia/Shanghai", "Europe/Berlin", "UTC"}))

    def of_zone(told: Reply) -> list[str]:
        return [one for one in told.warnings if "timeZone" in one]

    async with world() as w:
        said = await w.call("POST", INSTANCES, instance(guest={"timeZone": "Asia/Shangai"}))
        text = "spec.guest.timeZone: Asia/Shangai is no time zone that this server knows; do you mean Asia/Shanghai?"
        assert (said.code, of_zone(said)) == (201, [f'299 - "{text}"'])

        async def patched(**spec: Any) -> list[str]:
            return of_zone(await w.call("PATCH", f"{INSTANCES}/web-1", {"spec": spec}, headers=MERGE))

        assert not await patched(cpus=2)
        for zone, meant in (("Berlin", "Europe/Berlin"), ("europe/berlin", "Europe/Berlin"), ("Mars/Base", "")):
            (told,) = await patched(guest={"timeZone": zone})
            assert told.endswith(f'do you mean {meant}?"' if meant else 'knows"')
        assert not await patched(guest={"timeZone": "UTC"})
        monkeypatch.setattr(zones, "known", frozenset)
        assert not await patched(guest={"timeZone": "Mars/Base"})


def _disks(*named: str) -> list[dict[str, Any]]:
    return [
        {"name": name, "source": {"image": f"shared/{image}"}}
        for name, _, image in (one.partition(":") for one in named)
    ]


@pytest.mark.parametrize(
    ("before", "after", "warned"),
    [
        (("a:absent",), ("a:absent",), []),
        (("a:absent",), ("a:absent", "b:absent"), [1]),
        (("a:absent",), ("a:absent", "b:other"), [1]),
        (("a:absent",), ("a:other",), [0]),
        (("a:absent",), ("b:other", "a:absent"), [0]),
        (("a:other", "b:absent"), ("b:absent",), []),
        (("a:other", "b:absent"), ("b:absent", "a:other"), []),
        (("a:absent", "b:absent"), ("a:absent",), []),
        (("a:absent", "b:other"), ("b:other", "c:other"), [0]),
    ],
)
async def test_warning_comes_with_the_write_that_brings_its_reason(
    before: tuple[str, ...], after: tuple[str, ...], warned: list[int]
) -> None:
    async with world() as w:
        await w.make(INSTANCES, instance(disks=_disks(*before)))
        for verb, body, headers in (
            ("PATCH", {"spec": {"disks": _disks(*after)}}, MERGE),
            ("PATCH", {"metadata": {"labels": {"a": "b"}}}, MERGE),
            ("PUT", instance(disks=_disks(*after), cpus=3), {}),
        ):
            told = await w.call(verb, f"{INSTANCES}/web-1", body, headers=headers)
            assert told.code == 200
            fields = [one.partition('"')[2].partition(":")[0] for one in told.warnings]
            assert fields == [f"spec.disks[{at}].source.image" for at in warned]
            warned = []


async def test_what_is_referred_to_is_not_deleted_and_the_users_are_named() -> None:
    async with world() as w:
        await w.make(POOLS, pool())
        await w.make(INSTANCES, card())
        said = await w.call("DELETE", f"{POOLS}/lan")
        assert (said.code, reasons(said.doc)) == (409, ["InUse"])
        assert "instances/default/web-2" in said.doc["message"]
        await w.call("PATCH", f"{INSTANCES}/web-2", {"spec": {"nics": []}}, headers=MERGE)
        await give_address(w, "10.20.0.55")
        said = await w.call("DELETE", f"{POOLS}/lan")
        assert (said.code, "default/web-1" in said.doc["message"]) == (409, True)


async def test_image_of_the_shared_namespace_counts_its_users_elsewhere() -> None:
    async with world() as w:
        image = {"metadata": {"name": "debian"}, "spec": {"source": {"file": "debian.qcow2"}}}
        await w.make(f"{NANO}/namespaces/shared/images", image)
        await w.make(f"{NANO}/namespaces/default/images", image)
        disks = [{"name": "system", "source": {"image": "shared/debian"}}]
        await w.make(INSTANCES, instance(disks=disks))
        assert (await w.call("DELETE", f"{NANO}/namespaces/shared/images/debian")).code == 409
        assert (await w.call("DELETE", f"{NANO}/namespaces/default/images/debian")).code == 200


async def test_namespace_that_holds_something_is_not_deleted() -> None:
    async with world() as w:
        await w.make(f"{NANO}/namespaces/team-a/instances", instance())
        said = await w.call("DELETE", "/api/v1/namespaces/team-a")
        assert (said.code, reasons(said.doc)) == (409, ["NotEmpty"])
        for fixed in ("default", "shared"):
            assert (await w.call("DELETE", f"/api/v1/namespaces/{fixed}")).code == 403


async def test_events_of_a_namespace_go_with_it() -> None:
    async with world() as w:
        await w.make("/api/v1/namespaces/team-a/events", {"metadata": {"name": "e1"}, "reason": "Created"})
        assert (await w.call("DELETE", "/api/v1/namespaces/team-a")).code == 200
        assert w.store.list("events") == []


async def test_protected_instance_is_not_deleted() -> None:
    async with world() as w:
        await w.make(INSTANCES, instance(deletionProtection=True))
        said = await w.call("DELETE", f"{INSTANCES}/web-1")
        assert (said.code, reasons(said.doc)) == (409, ["DeletionProtected"])


async def test_host_with_placements_is_not_deleted() -> None:
    async with world() as w:
        await w.make(f"{NANO}/hosts", {"metadata": {"name": "node-1"}, "spec": {}})
        key = Key("placements", "default", "web-1-1")
        await w.store_raw(key, {"spec": {"host": "node-1"}})
        said = await w.call("DELETE", f"{NANO}/hosts/node-1")
        assert (said.code, reasons(said.doc)) == (409, ["InUse"])
        assert "placements/default/web-1-1" in said.doc["message"]


async def test_agent_writes_the_status_of_its_own_placement_and_nothing_else() -> None:
    async with world() as w:
        domain = {"uuid": UID, "name": "default.web-1"}
        for number, host in ((1, "node-1"), (2, "node-2")):
            spec = {"instance": "web-1", "instanceUid": UID, "host": host, "epoch": 1, "domain": domain, "cpu": 1}
            spec |= {"hostname": "web-1", "memory": "1Gi"}
            await w.store_raw(Key("placements", "default", f"web-{number}"), {"spec": spec})
        own, other = (f"{NANO}/namespaces/default/placements/web-{number}" for number in (1, 2))
        change = {"spec": {"epoch": 9}, "metadata": {"labels": {"a": "b"}}, "status": {"state": "Running", "epoch": 1}}
        said = await w.call("PATCH", f"{own}/status", change, headers=MERGE, subject="node-1")
        assert said.code == 200, said.raw
        assert (said.doc["spec"]["epoch"], said.doc["status"]["state"]) == (1, "Running")
        assert "labels" not in said.doc["metadata"]
        assert (await w.call("PATCH", f"{other}/status", change, headers=MERGE, subject="node-1")).code == 404
        assert (await w.call("PATCH", own, change, headers=MERGE, subject="node-1")).code == 403
        assert (await w.call("DELETE", own, subject="node-1")).code == 403
        assert (await w.call("POST", INSTANCES, instance(), subject="node-1")).code == 403


async def ready_image(w: World, size: str | None = "10Gi") -> None:
    status = {"phase": "Ready", "virtualSize": size} if size else {"phase": "Pending"}
    await w.store_raw(Key("images", "shared", "debian"), {"spec": {"source": {"file": "a"}}, "status": status})


def system(size: str | None = None, image: str | None = "shared/debian", **more: Any) -> dict[str, Any]:
    disk = {"name": "system", **({"size": size} if size else {}), **more}
    return disk | ({"source": {"image": image}} if image else {})


@pytest.mark.parametrize(
    ("disk", "code"),
    [(system("10Gi"), 201), (system("10239Mi"), 422), (system(), 201), (system("1Gi", image=None), 201),
     (system("1Gi", image="shared/other"), 201)],
)  # fmt: skip
async def test_disk_that_is_smaller_than_its_image_is_refused(disk: dict[str, Any], code: int) -> None:
    async with world() as w:
        await ready_image(w)
        said = await w.call("POST", INSTANCES, instance(disks=[{"name": "data", "size": "1Gi"}, disk]))
        assert said.code == code, said.doc
        if code == 422:
            (cause,) = said.doc["details"]["causes"]
            assert (cause["field"], cause["reason"]) == ("spec.disks[1].size", "DiskSmallerThanImage")
            assert cause["message"] == "Disk system is asked with 10239Mi, but image shared/debian has 10Gi."
        template = {"spec": {"disks": [disk]}}
        many = {"metadata": {"name": "many"}, "spec": {"replicas": 0, "template": template}}
        said = await w.call("POST", INSTANCES.replace("/instances", "/instancesets"), many)
        assert said.code == code, said.doc
        if code == 422:
            assert said.doc["details"]["causes"][0]["field"] == "spec.template.spec.disks[0].size"


async def test_disk_of_an_image_that_is_not_there_yet_is_accepted_and_stays_so() -> None:
    async with world() as w:
        await ready_image(w, None)
        await w.make(INSTANCES, instance(disks=[system("1Gi")]))
        image = Key("images", "shared", "debian")
        doc = {"metadata": {"name": "debian", "namespace": "shared"}, "spec": {"source": {"file": "a"}}}
        status = {"status": {"phase": "Ready", "virtualSize": "10Gi"}}
        await transact(w.store, [Update(image, doc | status, Half.STATUS)], "test")
        path = f"{INSTANCES}/web-1"
        assert (await w.call("PATCH", path, {"spec": {"cpus": 2}}, headers=MERGE)).code == 200
        for disk, code in ((system("2Gi"), 422), (system("20Gi"), 200), (system("5Gi", rebuild=1), 422)):
            said = await w.call("PATCH", path, {"spec": {"disks": [disk]}}, headers=MERGE)
            assert said.code == code, said.doc


VOLUMES = f"{NANO}/namespaces/default/volumes"


async def give_volume(w: World, name: str, owner: str = "") -> None:
    file = f"/v/{UID}.{name.rpartition('.')[2]}.qcow2"
    spec = {"storagePool": "local", "host": "node-1", "size": "1Gi", "file": file, "reclaim": "Retain"}
    owners = [{"apiVersion": "nano/v1", "kind": "Instance", "name": owner, "uid": UID}] if owner else []
    await w.store_raw(Key("volumes", "default", name), {"spec": spec, "metadata": {"ownerReferences": owners}})


async def test_volume_of_nobody_may_be_deleted_and_waits_for_its_host() -> None:
    async with world() as w:
        await give_volume(w, "web-1.data")
        said = await w.call("DELETE", f"{VOLUMES}/web-1.data")
        assert said.code == 200
        assert said.doc["metadata"]["finalizers"] == ["nano/file-removed"]
        assert said.doc["metadata"]["deletionTimestamp"]
        again = await w.call("DELETE", f"{VOLUMES}/web-1.data")
        assert (again.code, again.doc["metadata"]["finalizers"]) == (200, ["nano/file-removed"])
        for method, headers in (("PUT", {}), ("PATCH", MERGE)):
            said = await w.call(method, f"{VOLUMES}/web-1.data", {"metadata": {"name": "web-1.data"}}, headers=headers)
            assert (said.code, reasons(said.doc)) == (403, ["SystemWritten"])
        assert (await w.call("DELETE", VOLUMES)).code == 403


async def test_volume_that_is_in_use_is_not_deleted() -> None:
    async with world() as w:
        await w.make(INSTANCES, instance())
        await give_volume(w, "web-1.data", owner="web-1")
        said = await w.call("DELETE", f"{VOLUMES}/web-1.data")
        assert (said.code, reasons(said.doc)) == (409, ["InUse"])
        assert "instances/default/web-1" in said.doc["message"]
        await give_volume(w, "old.data")
        await w.make(INSTANCES, instance("web-2", disks=[{"name": "a", "source": {"volume": "old.data"}}]))
        said = await w.call("DELETE", f"{VOLUMES}/old.data")
        assert (said.code, "instances/default/web-2" in said.doc["message"]) == (409, True)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_kinds_of_the_system_are_not_written_by_people(method: str) -> None:
    async with world() as w:
        await w.make(POOLS, pool())
        await give_address(w, "10.20.0.55")
        name = "" if method == "POST" else "/lan.10.20.0.55"
        doc = {"metadata": {"name": "x" if method == "POST" else "lan.10.20.0.55"}}
        headers = MERGE if method == "PATCH" else {}
        said = await w.call(method, f"{NANO}/addresses{name}", doc, headers=headers)
        assert (said.code, reasons(said.doc)) == (403, ["SystemWritten"])
        assert "change the instance instead" in said.doc["message"]


async def test_labels_of_the_server_cannot_be_given_changed_or_taken() -> None:
    async with world() as w:
        doc = instance()
        doc["metadata"]["labels"] = {"nano/owner": "mallory", "nano/x": "1", "app": "web"}
        assert (await w.make(INSTANCES, doc))["metadata"]["labels"] == {"app": "web", "nano/owner": "admin"}
        change = {"metadata": {"labels": {"nano/owner": None, "app": None}}}
        said = await w.call("PATCH", f"{INSTANCES}/web-1", change, headers=MERGE)
        assert said.doc["metadata"]["labels"] == {"nano/owner": "admin"}


async def test_several_faults_are_told_at_once() -> None:
    async with world() as w:
        await w.make(POOLS, pool())
        await give_address(w, "10.20.0.55")
        nic = {"name": "lan", "addressPool": "lan", "ip": "10.20.0.55", "mac": "52:54:00:00:00:01"}
        said = await w.call("POST", INSTANCES, instance("web-2", nics=[nic]))
        assert sorted(reasons(said.doc)) == ["AddressInUse", "MacInUse"]


def test_mentions_name_the_field_and_the_target() -> None:
    doc = {"spec": {"computePool": "vip", "disks": [{}, {"source": {"image": "shared/x"}}], "nics": None}}
    found = list(mentions(Instance.facts, Key("instances", "team-a", "w"), doc))
    assert [(one.field, str(one.target)) for one in found] == [
        ("spec.computePool", "computepools/vip"),
        ("spec.disks[1].source.image", "images/shared/x"),
    ]
    assert [one.target for one in mentions(Host.facts, Key("hosts", "", "h"), {"spec": {"computePool": "p"}})] == [
        Key("computepools", "", "p")
    ]


def test_claims_are_what_is_asked_for_by_name() -> None:
    one = {"name": "a", "addressPool": "lan", "ip": "10.0.0.1"}
    nics = [one, {"name": "b", "mac": "52:54:00:00:00:09"}, {"name": "c"}]
    assert list(card_claims({"spec": {"nics": nics}})) == [("ip", "lan.10.0.0.1"), ("mac", "52:54:00:00:00:09")]


async def test_index_after_any_changes_equals_one_made_anew() -> None:
    store = Engine(MemoryLog())
    live = Index(store)
    key = Key("instances", "default", "a")
    first = {"metadata": {"name": "a", "namespace": "default"}, "spec": {"computePool": "p", "nics": []}}
    second: Any = {**first, "spec": {"computePool": "q", "nics": [{"name": "n", "mac": "52:54:00:00:00:01"}]}}
    store.stage([Create(key, first)], "test")
    assert live.uses == {Key("computepools", "", "p"): 1}
    store.stage([Update(key, second)], "test")
    assert live.uses == {Key("computepools", "", "q"): 1}
    assert live.macs == {"52:54:00:00:00:01": ("default/a",)}
    store.stage([Update(key, {**second, "metadata": {**second["metadata"], "finalizers": []}})], "test")
    store.stage([Delete(key)], "test")
    assert (live.uses, live.macs, live.contents) == ({}, {}, {})


LISTS = [
    ("Instance", INSTANCES, "spec.disks", [{"name": "root", "size": "1Gi"}] * 2, "spec.disks[1].name"),
    ("Instance", INSTANCES, "spec.nics", [{"name": "lan", "network": "default"}] * 2, "spec.nics[1].name"),
    ("Instance", INSTANCES, "spec.media", [{"name": "cd0"}] * 2, "spec.media[1].name"),
    (
        "SecurityGroup",
        INSTANCES.replace("instances", "securitygroups"),
        "spec.rules",
        [{"name": "http", "direction": "Inbound", "action": "Accept", "protocol": "TCP"}] * 2,
        "spec.rules[1].name",
    ),
    ("Host", f"{NANO}/hosts", "spec.bridges", [{"network": "a", "device": "br0"}] * 2, "spec.bridges[1].network"),
    (
        "Host",
        f"{NANO}/hosts",
        "spec.storagePaths",
        [{"storagePool": "local", "path": "/a"}, {"storagePool": "local", "path": "/b"}],
        "spec.storagePaths[1].storagePool",
    ),
    (
        "AddressPool",
        POOLS,
        "spec.ranges",
        [{"name": "r", "first": f"10.20.0.{ip}", "last": f"10.20.0.{ip}"} for ip in (50, 60)],
        "spec.ranges[1].name",
    ),
]


@pytest.mark.parametrize(("kind", "path", "field", "items", "named"), LISTS, ids=[case[2] for case in LISTS])
async def test_name_that_stands_twice_in_a_list_is_refused_where_it_stands(
    kind: str, path: str, field: str, items: list[Any], named: str
) -> None:
    name = field.partition(".")[2]
    async with world() as w:
        doc: dict[str, Any] = {"apiVersion": "nano/v1", "kind": kind, "metadata": {"name": "one"}, "spec": {}}
        if kind == "AddressPool":
            doc = pool("one")
        first = {**doc, "spec": {**doc["spec"], name: items[:1]}}
        both = {**doc, "spec": {**doc["spec"], name: items}}
        posted = await w.call("POST", path, both)
        await w.make(path, first)
        for said in (posted, await w.call("PUT", f"{path}/one", both)):
            causes = said.doc["details"]["causes"]
            assert (said.code, [(cause["field"], cause["reason"]) for cause in causes]) == (
                422,
                [(named, "FieldDuplicate")],
            )


def test_every_list_whose_items_have_names_is_looked_through() -> None:
    """A list that server-side apply merges by name must not have one twice, whoever writes it and how."""
    keyed = {
        (cls.facts.kind, f"spec.{name}")
        for cls in KINDS.values()
        if not cls.facts.system and "spec" in shape_of(cls).names
        for name, below in shape_of(cls).names["spec"].names.items()
        if below.key
    }
    assert keyed == {(kind, field) for kind, _, field, _, _ in LISTS}
