"""Requests that nobody should send, each with what must be said about it; the world they meet is that of the tests."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from nanovirt.resources.codec import JSON

NANO = "/apis/nano/v1"
INSTANCES = f"{NANO}/namespaces/default/instances"
WEB = f"{INSTANCES}/web-1"
POOLS = f"{NANO}/addresspools"
IMAGES = f"{NANO}/namespaces/shared/images"
MERGE = {"Content-Type": "application/merge-patch+json"}
PATCH = {"Content-Type": "application/json-patch+json"}
PLAIN = {"Content-Type": "application/json"}
UID = "11111111-1111-1111-1111-111111111111"


@dataclass(frozen=True)
class Case:
    """A request and its refusal: HTTP code, reason, and of one cause where and why; `says` is in the message."""

    title: str
    method: str
    path: str
    body: Any
    code: int
    reason: str
    where: str = ""
    cause: str = ""
    says: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    who: str = "admin"

    @property
    def content(self) -> bytes | None:
        """The bytes of the body."""
        if self.body is None or isinstance(self.body, bytes):
            return self.body
        return json.dumps(self.body).encode()


def create(title: str, spec: JSON, where: str, cause: str = "FieldValueInvalid", says: str = "") -> Case:
    """An Instance that cannot be created because of one field; its disk is fine unless `spec` says otherwise."""
    return Case(title, "POST", INSTANCES, made(spec), 422, "Invalid", where, cause, says, PLAIN)


def made(spec: JSON, name: str = "bad") -> JSON:
    """An Instance with that in its spec."""
    disks = [{"name": "system", "size": "1Gi"}]
    return {"apiVersion": "nano/v1", "kind": "Instance", "metadata": {"name": name}, "spec": {"disks": disks, **spec}}


def nic(**card: Any) -> JSON:
    """The spec of an Instance with one card."""
    return {"nics": [{"name": "lan", **card}]}


def named(name: Any) -> JSON:
    """An Instance of that name."""
    return {**made({}), "metadata": {"name": name}}


def meta(**metadata: Any) -> JSON:
    """An Instance with that metadata."""
    return {**made({}), "metadata": {"name": "bad", **metadata}}


def pool(*ranges: tuple[str, str], **spec: Any) -> JSON:
    """An AddressPool on a network of its own."""
    named_ranges = [{"name": f"r{at}", "first": first, "last": last} for at, (first, last) in enumerate(ranges)]
    wish = {"network": "own", "subnet": "10.99.0.0/24", "ranges": named_ranges or [RANGE], **spec}
    return {"apiVersion": "nano/v1", "kind": "AddressPool", "metadata": {"name": "bad"}, "spec": wish}


RANGE = {"name": "all", "first": "10.99.0.10", "last": "10.99.0.20"}


def pooled(title: str, doc: JSON, where: str, cause: str = "FieldValueInvalid", says: str = "") -> Case:
    """An AddressPool that cannot be created because of one field."""
    return Case(title, "POST", POOLS, doc, 422, "Invalid", where, cause, says)


def kind_of(kind: str, spec: JSON) -> JSON:
    """An object of that kind."""
    return {"apiVersion": "nano/v1", "kind": kind, "metadata": {"name": "bad"}, "spec": spec}


BODIES = [
    Case("no body", "POST", INSTANCES, b"", 400, "BadRequest"),
    Case("broken JSON", "POST", INSTANCES, b'{"kind": "Instance"', 400, "BadRequest", says="not valid JSON"),
    Case("two documents", "POST", INSTANCES, b"{} {}", 400, "BadRequest", says="not valid JSON"),
    Case("list instead of an object", "POST", INSTANCES, b"[]", 400, "BadRequest", says="must be a JSON object"),
    Case("bytes that are no UTF-8", "POST", INSTANCES, b'{"kind": "\xff"}', 400, "BadRequest", says="not valid JSON"),
    Case("bare control character", "POST", INSTANCES, b'{"kind": "a\x00"}', 400, "BadRequest", says="not valid JSON"),
    Case("half a surrogate", "POST", INSTANCES, rb'{"kind": "\ud800"}', 400, "BadRequest", says="not valid JSON"),
    Case(
        "deep JSON", "POST", INSTANCES, b'{"spec":' * 2000 + b"1" + b"}" * 2000, 400, "BadRequest",
        says="nested deeper than 32",
    ),
    Case(
        "2 MiB of JSON", "POST", INSTANCES, b'{"a":"' + b"x" * 2**21 + b'"}', 413, "RequestEntityTooLarge",
        says="the limit is 1048576",
    ),
    Case(
        "gzip", "POST", INSTANCES, gzip.compress(b"{}"), 415, "UnsupportedMediaType",
        says="send the body as it is", headers={**PLAIN, "Content-Encoding": "gzip"},
    ),
    Case(
        "YAML", "POST", INSTANCES, b"kind: Instance", 415, "UnsupportedMediaType",
        says="send application/json", headers={"Content-Type": "application/yaml"},
    ),
    Case(
        "strategic merge patch", "PATCH", WEB, {}, 415, "UnsupportedMediaType", says="--type=merge",
        headers={"Content-Type": "application/strategic-merge-patch+json"},
    ),
]  # fmt: skip

HEADS = [
    Case("no name", "POST", INSTANCES, {"kind": "Instance"}, 422, "Invalid", "metadata.name", "FieldValueRequired"),
    *(
        Case(f"name {title}", "POST", INSTANCES, named(name), 422, "Invalid", "metadata.name")
        for title, name in [
            ("that is a path", "../../etc/passwd"),
            ("with a slash", "a/b"),
            ("with capitals", "Web"),
            ("with NUL", "a\0b"),
            ("with a line feed", "web\n"),
            ("of 300 letters", "a" * 300),
            ("that is a number", 5),
            ("that is an object", {"a": 1}),
        ]
    ),
    Case("disk that is a path", "POST", INSTANCES, made({"disks": [{"name": "../a", "size": "1Gi"}]}), 422, "Invalid",
         "spec.disks[0].name", says="short name"),
    Case("generated name that is a path", "POST", INSTANCES, {"metadata": {"generateName": "../"}}, 422, "Invalid",
         "metadata.name"),
    Case("wrong kind", "POST", INSTANCES, {**made({}), "kind": "Host"}, 400, "BadRequest", says="'Instance'"),
    Case("wrong apiVersion", "POST", INSTANCES, {**made({}), "apiVersion": "nano/v2"}, 400, "BadRequest",
         says="'nano/v1'"),
    Case("another namespace than the URL's", "POST", INSTANCES, meta(namespace="team-a"), 400, "BadRequest",
         says="the URL 'default'"),
    Case("namespace of a cluster-scoped kind", "POST", POOLS,
         {**pool(), "metadata": {"name": "bad", "namespace": "default"}}, 400, "BadRequest", says="cluster-scoped"),
    Case("namespace that is not there", "POST", f"{NANO}/namespaces/gone/instances", made({}), 404, "NotFound",
         says='namespaces "gone" not found'),
    Case("no namespace", "POST", f"{NANO}/instances", made({}), 405, "MethodNotAllowed", says="below their namespace"),
    Case("metadata that is a text", "POST", INSTANCES, {"metadata": "x"}, 400, "BadRequest", says="must be an object"),
    Case("label with a blank", "POST", INSTANCES, meta(labels={"app": "a b"}), 422, "Invalid", "metadata.labels"),
    Case("label with NUL", "POST", INSTANCES, meta(labels={"app": "a\0"}), 422, "Invalid", "metadata.labels"),
    Case("label of 64 letters", "POST", INSTANCES, meta(labels={"app": "a" * 64}), 422, "Invalid", "metadata.labels",
         says="at most 63"),
    Case("annotations of 300 KiB", "POST", INSTANCES, meta(annotations={"a": "x" * 300 * 1024}), 422, "Invalid",
         "metadata.annotations", says="262144"),
    Case("name that is taken", "POST", INSTANCES, made({}, "web-1"), 409, "AlreadyExists", says='"web-1" already'),
    Case("owner without uid", "POST", INSTANCES,
         meta(ownerReferences=[{"apiVersion": "nano/v1", "kind": "Instance", "name": "web-1"}]), 422, "Invalid",
         "metadata.ownerReferences[0].uid", "FieldValueRequired"),
]  # fmt: skip

FIELDS = [
    Case("unknown field", "POST", INSTANCES, made({"colour": "red"}), 400, "BadRequest", "spec.colour", "FieldUnknown",
         says="known here: displayName"),
    Case("unknown field in a list", "POST", INSTANCES, made({"disks": [{"name": "a", "colour": 1}]}), 400,
         "BadRequest", "spec.disks[0].colour", "FieldUnknown", says="known here: name, size"),
    Case("unknown field at the top", "POST", INSTANCES, {**made({}), "specs": {}}, 400, "BadRequest", "specs",
         "FieldUnknown"),
    create("unit that does not exist", {"memory": "4Gigs"}, "spec.memory", says="4Gi"),
    create("negative memory", {"memory": "-1Gi"}, "spec.memory"),
    create("memory that is a list", {"memory": ["1Gi"]}, "spec.memory"),
    create("memory that no machine boots with", {"memory": "1Mi"}, "spec.memory", says="64Mi"),
    create("memory beyond all measure", {"memory": "9" * 400 + "Ti"}, "spec.memory"),
    create("no processor", {"cpus": 0}, "spec.cpus"),
    create("negative processors", {"cpus": -1}, "spec.cpus"),
    create("half a processor", {"cpus": 1.5}, "spec.cpus"),
    create("processors in words", {"cpus": "two"}, "spec.cpus"),
    create("processors beyond 64 bits", {"cpus": 10**30}, "spec.cpus"),
    create("negative disk", {"disks": [{"name": "a", "size": "-1Gi"}]}, "spec.disks[0].size"),
    create("disk of a whole data centre", {"disks": [{"name": "a", "size": "65Ti"}]}, "spec.disks[0].size"),
    create("empty disk without a size", {"disks": [{"name": "a"}]}, "spec.disks[0].size", "FieldValueRequired", "20Gi"),
    create("disk named twice", {"disks": [{"name": "a", "size": "1Gi"}] * 2}, "spec.disks[1].name", "FieldDuplicate"),
    create("too many disks", {"disks": [{"name": f"d{at}", "size": "1Gi"} for at in range(17)]}, "spec.disks"),
    create("disks that are an object", {"disks": {"name": "a"}}, "spec.disks"),
    create("state that does not exist", {"powerState": "Sleeping"}, "spec.powerState", says="Running"),
    create("time without a zone", {"restart": {"at": "2026-11-22T06:00:00"}}, "spec.restart.at", says="zone"),
    create("hostname with a blank", {"guest": {"hostname": "my host"}}, "spec.guest.hostname", says="such as web-1"),
    create("pinned to a path", {"scheduling": {"host": "../../x"}}, "spec.scheduling.host", says="is not a name"),
    create("reference that is a path", {"computePool": "../default"}, "spec.computePool"),
    create("image of a strange namespace", {"disks": [{"name": "a", "source": {"image": "other/x"}}]},
           "spec.disks[0].source.image", says="shared/NAME"),
    create("title with a control character", {"displayName": "a\0b"}, "spec.displayName", says="leave it out"),
    create("description with an escape sequence", {"description": "\x1b[31mred"}, "spec.description"),
    create("title of 200 letters", {"displayName": "a" * 200}, "spec.displayName"),
    create("grace of a day", {"stopGraceSeconds": 86400}, "spec.stopGraceSeconds"),
    Case("spec that is a text", "POST", INSTANCES, {**made({}), "spec": "x"}, 422, "Invalid", "spec"),
    Case("no subnet", "POST", POOLS, kind_of("AddressPool", {"ranges": [RANGE]}), 422, "Invalid", "spec.subnet",
         "FieldValueRequired"),
    Case("no ranges", "POST", POOLS, kind_of("AddressPool", {"subnet": "10.99.0.0/24"}), 422, "Invalid", "spec.ranges",
         "FieldValueRequired"),
    Case("image from two sources", "POST", IMAGES, kind_of("Image", {"source": {"file": "a", "upload": {}}}), 422,
         "Invalid", "spec.source", "OneMemberRequired"),
    Case("image from nowhere", "POST", IMAGES, kind_of("Image", {"source": {}}), 422, "Invalid", "spec.source",
         "OneMemberRequired"),
    Case("image file that is a path", "POST", IMAGES, kind_of("Image", {"source": {"file": "../../etc/shadow"}}), 422,
         "Invalid", "spec.source.file", says="without its folder"),
    Case("relative storage path", "POST", f"{NANO}/storagepools",
         kind_of("StoragePool", {"type": "Local", "local": {"path": "volumes"}}), 422, "Invalid", "spec.local.path"),
    Case("storage pool without its member", "POST", f"{NANO}/storagepools", kind_of("StoragePool", {"type": "Local"}),
         422, "Invalid", "spec.local"),
    Case("negative overcommit", "POST", f"{NANO}/computepools",
         kind_of("ComputePool", {"storagePool": "local", "overcommit": {"cpu": -1}}), 422, "Invalid",
         "spec.overcommit.cpu"),
    Case("bridge with a command", "POST", f"{NANO}/hosts",
         kind_of("Host", {"bridges": [{"network": "default", "device": "br0;reboot"}]}), 422, "Invalid",
         "spec.bridges[0].device"),
    *(Case(title, "POST", f"{NANO}/hosts",
           kind_of("Host", {"bridges": [{"network": "default", "device": "br0", "vlans": vlans}]}), 422, "Invalid",
           where, says=says)
      for title, vlans, where, says in (
          ("carried VLAN beyond the last", ["4095"], "spec.bridges[0].vlans[0]", "4094"),
          ("carried VLANs that run backwards", ["0", "29-20"], "spec.bridges[0].vlans[1]", "write 20-29"),
          ("carried VLANs in one text", ["10,20"], "spec.bridges[0].vlans[0]", "a range of them"),
          ("no carried VLAN at all", [], "spec.bridges[0].vlans", "leave it out"),
      )),
]  # fmt: skip

ADDRESSES = [
    create("card without a network", nic(), "spec.nics[0]", "OneMemberRequired", "addressPool, network"),
    create("card with two networks", nic(addressPool="lan", network="x"), "spec.nics[0]", "OneMemberRequired"),
    create("address without a pool", nic(network="x", ip="10.87.1.9"), "spec.nics[0].ip", "NeedsAddressPool"),
    create("address outside the ranges", nic(addressPool="lan", ip="10.87.0.9"), "spec.nics[0].ip", "NotInRanges"),
    create("address of another network", nic(addressPool="lan", ip="192.0.2.1"), "spec.nics[0].ip", "NotInRanges"),
    create("reserved address", nic(addressPool="spare", ip="10.98.0.15"), "spec.nics[0].ip", "AddressReserved"),
    create("address in use", nic(addressPool="lan", ip="10.87.1.5"), "spec.nics[0].ip", "AddressInUse",
           "default/web-1"),
    create("MAC in use", nic(addressPool="lan", mac="52:54:00:00:00:05"), "spec.nics[0].mac", "MacInUse",
           "default/web-1"),
    create("multicast MAC", nic(addressPool="lan", mac="01:00:5e:00:00:01"), "spec.nics[0].mac", says="unicast"),
    create("MAC that is none", nic(addressPool="lan", mac="52:54:00"), "spec.nics[0].mac", says="52:54:00:1a:2b:3c"),
    create("address that is none", nic(addressPool="lan", ip="10.87.1.300"), "spec.nics[0].ip"),
    create("address that is a number", nic(addressPool="lan", ip=173474049), "spec.nics[0].ip", says="as text"),
    create("address of another protocol", nic(addressPool="lan", ip="fe80::1"), "spec.nics[0].ip"),
    create("VLAN below the first", nic(network="x", vlan=-1), "spec.nics[0].vlan"),
    create("VLAN beyond the last", nic(network="x", vlan=4095), "spec.nics[0].vlan", says="4094"),
    create("VLAN by its name", nic(addressPool="lan", vlan="forty"), "spec.nics[0].vlan"),
    create("tiny frames", nic(addressPool="lan", mtu=68), "spec.nics[0].mtu"),
    create("too many cards", {"nics": [{"name": f"n{at}", "network": "x"} for at in range(9)]}, "spec.nics"),
    pooled("range outside the subnet", pool(("10.99.0.9", "10.99.1.9")), "spec.ranges[0].last", "NotInSubnet"),
    pooled("range that runs backwards", pool(("10.99.0.9", "10.99.0.8")), "spec.ranges[0]", "RangeReversed"),
    pooled("ranges that overlap", pool(("10.99.0.1", "10.99.0.9"), ("10.99.0.9", "10.99.0.20")), "spec.ranges",
           "RangesOverlap"),
    pooled("subnet of another pool", pool(("10.87.0.9", "10.87.0.10"), network="default", subnet="10.87.0.0/24"),
           "spec.subnet", "SubnetOverlaps"),
    pooled("gateway elsewhere", pool(gateway="10.98.0.1"), "spec.gateway", "NotInSubnet"),
    pooled("subnet with host bits", pool(subnet="10.99.0.5/24"), "spec.subnet"),
    pooled("subnet without room", pool(("10.99.0.0", "10.99.0.1"), subnet="10.99.0.0/31"), "spec.subnet", says="/30"),
    pooled("VLAN below the first", pool(vlan=-1), "spec.vlan"),
    pooled("VLAN beyond the last", pool(vlan=4095), "spec.vlan", says="4094"),
    pooled("lease of a second", pool(leaseSeconds=1), "spec.leaseSeconds"),
    pooled("domain with a blank", pool(domain="lab example"), "spec.domain", says="lab.example"),
    Case("range shrunk below an address in use", "PATCH", f"{POOLS}/lan",
         {"spec": {"ranges": [{"name": "guests", "first": "10.87.2.0", "last": "10.87.31.250"}]}}, 422, "Invalid",
         "spec.ranges", "RangeHoldsAddressInUse", "default/web-1", MERGE),
]  # fmt: skip

ORDERS: list[tuple[str, Any]] = [("PATCH", {"spec": {}}), ("DELETE", None)]
CHANGES = [
    Case("immutable field", "PATCH", WEB, {"spec": {"computePool": "other"}}, 422, "Invalid", "spec.computePool",
         "FieldImmutable", "make a new object", MERGE),
    Case("immutable subnet", "PATCH", f"{POOLS}/spare", {"spec": {"subnet": "10.98.0.0/23"}}, 422, "Invalid",
         "spec.subnet", "FieldImmutable", headers=MERGE),
    Case("stale resourceVersion", "PUT", WEB, {**made({}, "web-1"), "metadata": {"resourceVersion": "1"}}, 409,
         "Conflict", says="latest version"),
    Case("resourceVersion that is none", "PATCH", WEB, {"metadata": {"resourceVersion": "new"}}, 400, "BadRequest",
         says="'new'", headers=MERGE),
    Case("another uid", "PATCH", WEB, {"metadata": {"uid": UID}}, 409, "Conflict", headers=MERGE),
    Case("another name than the URL's", "PUT", WEB, made({}, "web-9"), 400, "BadRequest", says="the URL 'web-1'"),
    Case("replacing what is not there", "PUT", f"{INSTANCES}/gone", made({}, "gone"), 404, "NotFound"),
    Case("patching what is not there", "PATCH", f"{INSTANCES}/gone", {}, 404, "NotFound", headers=MERGE),
    Case("deleting what is not there", "DELETE", f"{INSTANCES}/gone", None, 404, "NotFound"),
    Case("JSON patch whose test fails", "PATCH", WEB, [{"op": "test", "path": "/spec/cpus", "value": 9}], 422,
         "Invalid", "[0]", says="test of /spec/cpus failed", headers=PATCH),
    Case("JSON patch of a path that is not there", "PATCH", WEB, [{"op": "remove", "path": "/spec/none"}], 422,
         "Invalid", "[0]", headers=PATCH),
    Case("JSON patch with a strange operation", "PATCH", WEB, [{"op": "explode", "path": "/spec"}], 422, "Invalid",
         "[0]", headers=PATCH),
    Case("JSON patch that is no list", "PATCH", WEB, {"op": "add"}, 400, "BadRequest", says="list of operations",
         headers=PATCH),
    Case("JSON patch of 1,001 operations", "PATCH", WEB, [{"op": "test", "path": "", "value": 1}] * 1001, 413,
         "RequestEntityTooLarge", says="1000", headers=PATCH),
    Case("JSON patch that grows without end", "PATCH", WEB,
         [{"op": "add", "path": "/metadata/annotations", "value": {"a": "x" * 100_000}}]
         + [{"op": "copy", "from": "/metadata/annotations", "path": "/metadata/annotations/b"}] * 40, 413,
         "RequestEntityTooLarge", headers=PATCH),
    Case("merge patch that is a list", "PATCH", WEB, [], 400, "BadRequest", headers=MERGE),
    Case("bad field by a patch", "PATCH", WEB, {"spec": {"cpus": 0}}, 422, "Invalid", "spec.cpus", headers=MERGE),
    Case("status with a strange phase", "PATCH", f"{WEB}/status", {"status": {"phase": "Flying"}}, 422, "Invalid",
         "status.phase", headers=MERGE),
    *(
        Case(f"{method.lower()} of {plural} by a person", method, f"{NANO}/{path}", body, 403, "Forbidden", "",
             "SystemWritten", "change the instance instead", MERGE if method == "PATCH" else {})
        for plural, path in [
            ("a Placement", "namespaces/default/placements/web-1-1"),
            ("a Volume", "namespaces/default/volumes/web-1.system"),
            ("an Address", "addresses/lan.10.87.1.5"),
        ]
        for method, body in ORDERS
        if (plural, method) != ("a Volume", "DELETE")  # one that was kept may be deleted; one in use is told below
    ),
    Case("volume that a machine has", "DELETE", f"{NANO}/namespaces/default/volumes/web-1.system", None, 409,
         "Conflict", "", "InUse", "instances/default/web-1"),
    Case("address made by a person", "POST", f"{NANO}/addresses", kind_of("Address", {}), 403, "Forbidden", "",
         "SystemWritten", "change the instance instead"),
    Case("pool that is in use", "DELETE", f"{POOLS}/lan", None, 409, "Conflict", "", "InUse",
         "instances/default/web-1"),
    Case("compute pool that is in use", "DELETE", f"{NANO}/computepools/default", None, 409, "Conflict", "", "InUse"),
    Case("storage pool that is in use", "DELETE", f"{NANO}/storagepools/local", None, 409, "Conflict", "", "InUse",
         "computepools/default"),
    Case("namespace that holds something", "DELETE", "/api/v1/namespaces/team-a", None, 409, "Conflict", "", "NotEmpty",
         "delete them first"),
    Case("namespace of the system", "DELETE", "/api/v1/namespaces/default", None, 403, "Forbidden",
         says="may not be deleted"),
    Case("protected instance", "DELETE", f"{INSTANCES}/safe", None, 409, "Conflict", "", "DeletionProtected",
         "set it to false first"),
    Case("all instances, one of them protected", "DELETE", INSTANCES, None, 409, "Conflict", "", "DeletionProtected"),
    Case("deletion of another uid", "DELETE", WEB, {"preconditions": {"uid": UID}}, 409, "Conflict", headers=PLAIN),
    Case("deletion with strange options", "DELETE", WEB, {"preconditions": "x"}, 400, "BadRequest", headers=PLAIN),
]  # fmt: skip

QUESTIONS = [
    Case("label selector that is none", "GET", f"{INSTANCES}?labelSelector=app%20in", None, 400, "BadRequest",
         says="is not like app=web"),
    Case("field selector on a field that is none", "GET", f"{INSTANCES}?fieldSelector=spec.colour=red", None, 400,
         "BadRequest", "spec.colour", "UnknownFieldSelector", "selectable: metadata.name"),
    Case("field selector that is none", "GET", f"{INSTANCES}?fieldSelector=phase", None, 400, "BadRequest",
         says="is not like status.phase=Running"),
    Case("negative limit", "GET", f"{INSTANCES}?limit=-1", None, 400, "BadRequest", says="limit='-1'"),
    Case("limit in words", "GET", f"{INSTANCES}?limit=many", None, 400, "BadRequest", says="whole number"),
    Case("continue token that is none", "GET", f"{INSTANCES}?limit=1&continue=abc", None, 400, "BadRequest",
         says="continue token"),
    Case("continue token of another shape", "GET", f"{INSTANCES}?limit=1&continue=e30=", None, 400, "BadRequest",
         says="continue token"),
    Case("watch from a revision that is none", "GET", f"{INSTANCES}?watch=1&resourceVersion=x", None, 400, "BadRequest",
         says="resourceVersion"),
    Case("dry run of some", "POST", f"{INSTANCES}?dryRun=Some", made({}), 400, "BadRequest", says="only value is All"),
    Case("validation that does not exist", "POST", f"{INSTANCES}?fieldValidation=Maybe", made({}), 400, "BadRequest",
         says="Strict, Warn and Ignore"),
    Case("kind that does not exist", "GET", f"{NANO}/machines", None, 404, "NotFound"),
    Case("kind that is not built", "GET", f"{NANO}/namespaces/default/snapshots", None, 404, "NotFound"),
    Case("group that does not exist", "GET", "/apis/other/v1/machines", None, 404, "NotFound"),
    Case("sub-resource that does not exist", "GET", f"{WEB}/eject", None, 404, "NotFound"),
    Case("path that climbs", "GET", f"{NANO}/namespaces/..%2F..%2Fetc/instances/passwd", None, 404, "NotFound"),
    Case("create of one object", "POST", WEB, made({}, "web-1"), 405, "MethodNotAllowed"),
    Case("replacing a collection", "PUT", INSTANCES, made({}), 405, "MethodNotAllowed"),
    Case("method of another world", "PROPFIND", WEB, None, 405, "MethodNotAllowed"),
]  # fmt: skip

STRANGERS = [
    Case("nobody", "GET", INSTANCES, None, 401, "Unauthorized", says="admin.kubeconfig", who="nobody"),
    Case("unknown token", "GET", INSTANCES, None, 401, "Unauthorized", says="not known here", who="nobody",
         headers={"Authorization": "Bearer x"}),
    Case("name and password", "GET", INSTANCES, None, 401, "Unauthorized", says="Bearer TOKEN", who="nobody",
         headers={"Authorization": "Basic YTpi"}),
    Case("host that creates", "POST", INSTANCES, made({}), 403, "Forbidden", says="may not create", who="host"),
    Case("host that looks around", "GET", INSTANCES, None, 403, "Forbidden", says="may not list", who="host"),
    Case("host that changes itself", "PATCH", f"{NANO}/hosts/sim-1", {"spec": {"enabled": False}}, 403, "Forbidden",
         headers=MERGE, who="host"),
    Case("host that reports for another", "POST", f"{NANO}/hosts/sim-2/report", {}, 403, "Forbidden", who="host"),
    Case("host that reports nonsense", "POST", f"{NANO}/hosts/sim-1/report", {"sequence": "x"}, 422, "Invalid",
         "sequence", who="host"),
    Case("host that writes another's Placement", "PATCH", f"{NANO}/namespaces/default/placements/web-2-1/status",
         {"status": {"state": "Stopped"}}, 404, "NotFound", headers=MERGE, who="host"),
    Case("host that changes its orders", "PATCH", f"{NANO}/namespaces/default/placements/web-1-1",
         {"spec": {"cpu": 64}}, 403, "Forbidden", headers=MERGE, who="host"),
    Case("host that reports a strange state", "PATCH", f"{NANO}/namespaces/default/placements/web-1-1/status",
         {"status": {"state": "Flying"}}, 422, "Invalid", "status.state", headers=MERGE, who="host"),
    Case("host that fetches another's image", "GET",
         f"{NANO}/namespaces/default/placements/web-2-1/image?volume=system", None, 404, "NotFound", who="host"),
]  # fmt: skip

CASES = [*BODIES, *HEADS, *FIELDS, *ADDRESSES, *CHANGES, *QUESTIONS, *STRANGERS]

# --- what the design has and nothing acts on yet -----------------------------------------------------------

SOURCE, CARD = "spec.disks[0].source", "spec.nics[0]"
LATER: list[tuple[str, str, Any]] = [
    ("instances", f"{SOURCE}.snapshot", "s1"),
    ("instances", f"{SOURCE}.disk", "system"),
    ("instances", "spec.scheduling.affinity", {"app": "db"}),
    ("instances", "spec.scheduling.antiAffinity", {"app": "web"}),
    ("images", "spec.source.url", "https://images.example/debian.qcow2"),
    ("images", "spec.source.instance", "web-1"),
    ("images", "spec.source.disk", "system"),
    ("groups", "spec.quota", {"instances": 20}),
    ("storagepools", "spec.type", "NFS"),
    ("storagepools", "spec.nfs", {"server": "10.20.0.5", "path": "/export/nano"}),
    ("storagepools", "spec.directory", {"path": "/mnt/nas"}),
    ("computepools", "spec.cpuModel", "HostPassthrough"),
    ("computepools", "spec.failover", "Automatic"),
    ("hosts", "spec.maintenance", True),
]
LATER += [
    ("instancesets", path.replace("spec.", "spec.template.spec.", 1), value)
    for plural, path, value in LATER
    if plural == "instances"
]
SMALLEST: dict[str, JSON] = {
    "instances": {"disks": [{"name": "system", "size": "1Gi", "source": {}}], "nics": [{"name": "a", "network": "x"}]},
    "images": {"source": {"upload": {}}},
    "storagepools": {"type": "Local", "local": {"path": "/srv/nano"}},
    "computepools": {"storagePool": "local"},
    "addresspools": {"network": "own", "subnet": "10.99.0.0/24", "ranges": [RANGE]},
    "hosts": {},
    "groups": {},
}
SMALLEST["instancesets"] = {"template": {"spec": SMALLEST["instances"]}}


def with_field(plural: str, path: str, value: Any) -> JSON:
    """The smallest object of that kind, with `value` at `path`."""
    doc: JSON = {"metadata": {"name": "later"}, "spec": json.loads(json.dumps(SMALLEST[plural]))}
    *way, last = steps(path)
    place: Any = doc
    for step in way:
        place = place.setdefault(step, {}) if isinstance(place, dict) else place[step]
    place[last] = value
    return doc


def steps(path: str) -> Iterator[Any]:
    """`spec.disks[0].size` as spec, disks, 0, size."""
    for part in path.split("."):
        name, _, index = part.partition("[")
        yield name
        if index:
            yield int(index.rstrip("]"))
