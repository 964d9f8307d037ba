"""Lists, pages, tables and the documents that clients read first."""

from typing import Any

import pytest

from nanovirt.portal.api import protobuf
from nanovirt.portal.api.replies import document, warning_value
from nanovirt.portal.api.requests import truth
from nanovirt.resources.errors import Malformed, UnsupportedMedia
from nanovirt.resources.kind import Key
from tests.portal.api_world import INSTANCES, NANO, instance, pool, world

TABLE = {
    "Accept": "application/json;as=Table;v=v1;g=meta.k8s.io,"
    "application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json"
}


async def test_pages_together_are_the_list() -> None:
    async with world() as w:
        for number in range(7):
            await w.make(INSTANCES, instance(f"web-{number}"))
        seen: list[str] = []
        token, remaining = "", []
        while True:
            doc = (await w.call("GET", f"{INSTANCES}?limit=3&continue={token}")).doc
            seen += [one["metadata"]["name"] for one in doc["items"]]
            remaining.append(doc["metadata"].get("remainingItemCount"))
            token = doc["metadata"].get("continue", "")
            if not token:
                break
        assert seen == [f"web-{number}" for number in range(7)]
        assert remaining == [4, 1, None]


async def test_page_goes_on_after_a_key_that_was_deleted() -> None:
    async with world() as w:
        for number, name in enumerate(("a", "b", "c")):
            await w.make(f"{NANO}/addresspools", pool(name, f"10.{number}.0.0/24"))
        first = (await w.call("GET", f"{NANO}/addresspools?limit=2")).doc
        await w.call("DELETE", f"{NANO}/addresspools/b")
        rest = (await w.call("GET", f"{NANO}/addresspools?limit=2&continue={first['metadata']['continue']}")).doc
        assert [one["metadata"]["name"] for one in rest["items"]] == ["c"]


@pytest.mark.parametrize("query", ["continue=%21%21", "continue=e30", "limit=-1", "limit=x", "includeObject=All"])
async def test_bad_list_query_is_400(query: str) -> None:
    async with world() as w:
        assert (await w.call("GET", f"{INSTANCES}?{query}", headers=TABLE)).code == 400


async def test_selected_lists() -> None:
    async with world() as w:
        for name, app in (("a", "web"), ("b", "web"), ("c", "db")):
            doc = instance(name, powerState="Stopped" if name == "b" else "Running")
            doc["metadata"]["labels"] = {"app": app}
            await w.make(INSTANCES, doc)

        async def listed(query: str) -> list[str]:
            return [one["metadata"]["name"] for one in (await w.call("GET", f"{INSTANCES}?{query}")).doc["items"]]

        assert await listed("labelSelector=app%3Dweb") == ["a", "b"]
        assert await listed("labelSelector=app+notin+(web)") == ["c"]
        assert await listed("fieldSelector=spec.powerState%3DStopped") == ["b"]
        assert await listed("labelSelector=app%3Dweb&fieldSelector=metadata.name!%3Da") == ["b"]
        doc = (await w.call("GET", f"{INSTANCES}?labelSelector=app&limit=1")).doc
        assert "remainingItemCount" not in doc["metadata"]
        assert doc["metadata"]["continue"]
        assert (await w.call("GET", f"{INSTANCES}?fieldSelector=spec.memory%3D1Gi")).code == 400


async def test_agents_list_their_own_placements_only() -> None:
    async with world() as w:
        for number, host in enumerate(("node-1", "node-2", "node-1")):
            await w.store_raw(Key("placements", "default", f"web-{number}"), {"spec": {"host": host}})
        doc = (await w.call("GET", f"{NANO}/placements", subject="node-1")).doc
        assert [one["metadata"]["name"] for one in doc["items"]] == ["web-0", "web-2"]
        assert (await w.call("GET", f"{NANO}/namespaces/default/placements/web-1", subject="node-1")).code == 404
        assert (await w.call("GET", f"{NANO}/namespaces/default/placements/gone", subject="node-1")).code == 404
        assert (await w.call("GET", f"{NANO}/namespaces/default/placements/web-0", subject="node-1")).code == 200


async def test_table_of_a_list_and_of_one_object() -> None:
    async with world() as w:
        await w.make(INSTANCES, instance("a", cpus=3))
        for path in (INSTANCES, f"{INSTANCES}/a"):
            doc = (await w.call("GET", path, headers=TABLE)).doc
            assert doc["kind"] == "Table"
            assert [one["name"] for one in doc["columnDefinitions"]][:3] == ["Name", "Phase", "Host"]
            assert doc["rows"][0]["cells"][:2] == ["a", "Pending"]
            assert doc["rows"][0]["object"]["metadata"]["name"] == "a"
        whole = (await w.call("GET", f"{INSTANCES}?includeObject=Object", headers=TABLE)).doc
        assert whole["rows"][0]["object"]["spec"]["cpus"] == 3


@pytest.mark.parametrize(
    "accept",
    [
        "",
        "*/*",
        "application/vnd.kubernetes.protobuf,application/json",
        "application/json;as=Table;v=v1beta1;g=meta.k8s.io",
    ],
)
async def test_any_other_accept_gets_json(accept: str) -> None:
    async with world() as w:
        doc = (await w.call("GET", INSTANCES, headers={"Accept": accept})).doc
        assert doc["kind"] == "InstanceList"


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/api", "APIVersions"),
        ("/apis", "APIGroupList"),
        ("/apis/nano", "APIGroup"),
        ("/apis/nano/v1", "APIResourceList"),
        ("/api/v1", "APIResourceList"),
        ("/api/v1/", "APIResourceList"),
    ],
)
async def test_discovery(path: str, kind: str) -> None:
    async with world() as w:
        found = await w.call("GET", path)
        assert (found.code, found.doc["kind"]) == (200, kind)
        assert (await w.call("POST", path, {})).code == 405


async def test_discovery_names_verbs_and_subresources() -> None:
    async def report(*_args: Any) -> Any:
        raise AssertionError

    async with world({("hosts", "report", "POST"): report}) as w:
        found = {one["name"]: one for one in (await w.call("GET", "/apis/nano/v1")).doc["resources"]}
        assert found["instances"]["shortNames"] == ["inst", "vm"]
        assert found["instances/status"]["verbs"] == ["get", "patch", "update"]
        assert found["placements"]["verbs"] == ["get", "list", "watch"]
        assert found["hosts/report"]["verbs"] == ["create"]


@pytest.mark.parametrize("version", ["v2", "v2beta1"])
async def test_aggregated_discovery_echoes_its_type(version: str) -> None:
    kind = f"application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList"
    async with world() as w:
        for path, group in (("/apis", {"name": "nano"}), ("/api", {})):
            found = await w.call("GET", path, headers={"Accept": f"{kind},application/json"})
            assert found.headers["Content-Type"] == kind
            assert found.headers["Vary"] == "Accept"
            assert found.doc["items"][0]["metadata"] == group
            assert found.doc["items"][0]["versions"][0]["resources"]


@pytest.mark.parametrize("path", ["/version", "/version/"])
async def test_version_in_both_spellings(path: str) -> None:
    async with world() as w:
        doc = (await w.call("GET", path)).doc
        assert doc["gitVersion"].startswith("v1.33.0+nano")
        assert all(isinstance(value, str) for value in doc.values())


async def test_health_needs_nobody() -> None:
    async with world() as w:
        for path in ("/healthz", "/livez", "/readyz"):
            assert (await w.call("GET", path, subject="nobody")).raw == b"ok"


async def test_openapi_documents() -> None:
    async with world() as w:
        paths = (await w.call("GET", "/openapi/v3")).doc["paths"]
        assert paths.keys() == {"api/v1", "apis/nano/v1"}
        assert (await w.call("GET", paths["apis/nano/v1"]["serverRelativeURL"])).doc["openapi"] == "3.0.0"
        assert (await w.call("GET", "/openapi/v2")).doc["swagger"] == "2.0"
        accept = {"Accept": "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"}
        assert (await w.call("GET", "/openapi/v2", headers=accept)).raw.startswith(b"\x0a\x032.0")


async def test_reviews_answer_for_the_caller() -> None:
    async with world() as w:
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        ask: Any = {"spec": {"resourceAttributes": {"verb": "create", "group": "nano", "resource": "instances"}}}
        said = await w.call("POST", path, ask)
        assert (said.code, said.doc["status"]["allowed"]) == (201, True)
        assert not (await w.call("POST", path, ask, subject="stranger")).doc["status"]["allowed"]
        ask["spec"]["resourceAttributes"] = {"verb": "list", "resource": "placements"}
        assert (await w.call("POST", path, ask, subject="node-1")).doc["status"]["allowed"]
        rules = await w.call(
            "POST", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", {"spec": {}}, subject="node-1"
        )
        assert {rule["resources"][0] for rule in rules.doc["status"]["resourceRules"]} == {"hosts", "placements"}
        who = await w.call("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", {})
        assert who.doc["status"]["userInfo"]["username"] == "admin"
        assert (await w.call("GET", path)).code == 405


async def test_token_review_looks_at_ones_own_token_only() -> None:
    async with world() as w:
        path, own = "/apis/authentication.k8s.io/v1/tokenreviews", {"Authorization": "Bearer secret"}
        said = await w.call("POST", path, {"spec": {"token": "secret"}}, headers=own)
        assert said.doc["status"]["user"]["username"] == "admin"
        assert b"secret" not in said.raw
        for token in ("secret2", "", None, 5):
            other = await w.call("POST", path, {"spec": {"token": token}}, headers=own)
            assert (other.code, other.doc["status"]["authenticated"]) == (201, False)


def packed(kind: str, raw: bytes) -> bytes:
    head = protobuf.piece(1, "v1") + protobuf.piece(2, kind)
    return protobuf.MAGIC + protobuf.piece(1, head) + protobuf.piece(2, raw)


async def test_namespace_may_come_as_protobuf() -> None:
    label = protobuf.piece(1, "app") + protobuf.piece(2, "web")
    body = packed("Namespace", protobuf.piece(1, protobuf.piece(1, "team-x") + protobuf.piece(11, label)))
    async with world() as w:
        kind = {"Content-Type": "application/vnd.kubernetes.protobuf"}
        made = await w.call("POST", "/api/v1/namespaces", data=body, headers=kind)
        assert made.code == 201, made.raw
        assert made.doc["metadata"]["labels"] == {"app": "web", "nano/owner": "admin"}
        assert (await w.call("POST", INSTANCES, data=packed("Instance", b""), headers=kind)).code == 415


@pytest.mark.parametrize("body", [b"", b"k8s", b"k8s\0\xff", b"k8s\0\x12\x7f", b"k8s\0\x0f"])
def test_broken_protobuf_is_refused(body: bytes) -> None:
    with pytest.raises((Malformed, UnsupportedMedia)):
        protobuf.document(body)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        (None, False),
        ("false", False),
        ("False", False),
        ("0", False),
        ("true", True),
        ("True", True),
        ("1", True),
        ("", True),
    ],
)
def test_booleans_of_go_and_python_clients(text: str | None, meant: bool) -> None:
    assert truth(text) is meant


def test_quotes_in_warnings_are_escaped_and_nothing_breaks_the_header() -> None:
    assert warning_value('unknown field "a\\b"\r\nX: 1') == r'299 - "unknown field \"a\\b\"??X: 1"'


async def test_hooks_answer_for_their_subresource_after_the_door() -> None:
    asked: list[Any] = []

    async def report(_request: Any, subject: Any, key: Key) -> Any:
        asked.append((subject.name, key))
        return document({"ok": True})

    async with world({("hosts", "report", "POST"): report}) as w:
        await w.store_raw(Key("hosts", "", "node-1"), {"spec": {}})
        uid = w.store.get(Key("hosts", "", "node-1")).uid
        w.subjects["node-1"] = w.subjects["node-1"].__class__(f"host:{uid}", w.subjects["node-1"].groups, "node-1")
        assert (await w.call("POST", f"{NANO}/hosts/node-1/report", {}, subject="node-1")).doc == {"ok": True}
        assert (await w.call("POST", f"{NANO}/hosts/node-1/report", {}, subject="stranger")).code == 403
        assert (await w.call("GET", f"{NANO}/hosts/node-1/report")).code == 404
        assert asked == [(f"host:{uid}", Key("hosts", "", "node-1"))]


async def test_watch_from_a_list_of_several_pages_tells_what_changed_between_them() -> None:
    async with world() as w:
        for name in ("a", "b"):
            await w.make(INSTANCES, instance(name))
        first = (await w.call("GET", f"{INSTANCES}?limit=1")).doc
        await w.call("DELETE", f"{INSTANCES}/a")
        last = (await w.call("GET", f"{INSTANCES}?limit=1&continue={first['metadata']['continue']}")).doc
        assert last["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
        async with w.watch(INSTANCES, resourceVersion=last["metadata"]["resourceVersion"]) as watch:
            assert await watch.take(1) == [("MODIFIED", "a")]
