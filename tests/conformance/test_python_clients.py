"""The Kubernetes clients of Python, unchanged: each creates, reads, watches, patches and deletes instances."""

from __future__ import annotations

import asyncio
import gc
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kr8s
import kr8s.asyncio
import kr8s.asyncio.objects
import kubernetes
import kubernetes_asyncio
import lightkube
import pytest
from kubernetes.client.exceptions import ApiException
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic.exceptions import ConflictError, NotFoundError
from kubernetes_asyncio.client.exceptions import ApiException as AsyncApiException
from kubernetes_asyncio.dynamic import DynamicClient as AsyncDynamicClient
from lightkube.generic_resource import create_global_resource, create_namespaced_resource
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.types import PatchType

from tests.conformance.cluster import Cluster, running_cluster

MERGE = "application/merge-patch+json"
GROUP: dict[str, Any] = {"group": "nano", "version": "v1", "namespace": "default", "plural": "instances"}
READY = "Ready"
SECONDS = 30


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One server for all clients."""
    with running_cluster(tmp_path_factory.mktemp("clients")) as cluster:
        yield cluster


@pytest.fixture
def kubeconfig(cluster: Cluster) -> Iterator[str]:
    """What a client is given; what it leaves behind is removed."""
    yield str(cluster.server.kubeconfig)
    cluster.clear()


def instance(name: str, **labels: str) -> dict[str, Any]:
    """A small one, without a card."""
    spec = {"cpus": 1, "memory": "1Gi", "disks": [{"name": "system", "size": "1Gi"}], "nics": []}
    return {
        "apiVersion": "nano/v1",
        "kind": "Instance",
        "metadata": {"name": name, "namespace": "default", "labels": {"by": name, **labels}},
        "spec": spec,
    }


def cpus(number: int) -> dict[str, Any]:
    """A merge patch."""
    return {"spec": {"cpus": number}}


def gone(cluster: Cluster, name: str) -> bool:
    """Whether the instance goes away within a while."""
    until = time.monotonic() + SECONDS
    while cluster.get(f"instances/{name}") is not None:
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


@pytest.fixture(autouse=True)
def _sockets_left_open() -> Iterator[None]:
    """Some of these clients leave sockets behind: collected here in silence, not in whatever test comes later."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def test_kubernetes_dynamic_client(cluster: Cluster, kubeconfig: str, tmp_path: Path) -> None:
    with kubernetes.config.new_client_from_config(kubeconfig) as api:
        client: Any = DynamicClient(api, cache_file=str(tmp_path / "discovery"))
        instances = client.resources.get(api_version="nano/v1", kind="Instance")
        assert (instances.name, instances.short_names, instances.namespaced) == ("instances", ["inst", "vm"], True)
        assert client.resources.get(short_names=["apool"]).kind == "AddressPool"
        made = instances.create(body=instance("dyn"), namespace="default")
        listed = instances.get(namespace="default", label_selector="by=dyn")
        assert [item.metadata.name for item in listed.items] == ["dyn"]
        version = made.metadata.resourceVersion
        for event in instances.watch(namespace="default", resource_version=version, timeout=SECONDS):
            if event["object"].status.phase == "Running":
                break
        patched = instances.patch(body=cpus(3), name="dyn", namespace="default", content_type=MERGE)
        assert patched.spec.cpus == 3
        assert instances.status.get(name="dyn", namespace="default").status.phase == "Running"
        lies = {"status": {"host": "elsewhere"}}
        assert instances.status.patch(body=lies, name="dyn", namespace="default", content_type=MERGE).kind == "Instance"
        with pytest.raises(ConflictError):
            instances.replace(body=made.to_dict(), name="dyn", namespace="default")
        fresh = instances.get(name="dyn", namespace="default").to_dict()
        fresh["spec"]["displayName"] = "Replaced"
        del fresh["metadata"]["resourceVersion"]
        assert instances.replace(body=fresh, namespace="default").spec.displayName == "Replaced"
        with pytest.raises(kubernetes.dynamic.exceptions.DynamicApiError, match="type=merge"):
            instances.patch(body=cpus(4), name="dyn", namespace="default")
        instances.delete(name="dyn", namespace="default", body={"propagationPolicy": "Foreground"})
        assert gone(cluster, "dyn")
        with pytest.raises(NotFoundError):
            instances.get(name="dyn", namespace="default")


def test_kubernetes_custom_objects(cluster: Cluster, kubeconfig: str) -> None:
    with kubernetes.config.new_client_from_config(kubeconfig) as api:
        custom: Any = kubernetes.client.CustomObjectsApi(api)
        custom.create_namespaced_custom_object(**GROUP, body=instance("cust"))
        watch: Any = kubernetes.watch.Watch()
        for event in watch.stream(
            custom.list_namespaced_custom_object, **GROUP, label_selector="by=cust", timeout_seconds=SECONDS
        ):
            if event["object"]["status"].get("phase") == "Running":
                watch.stop()
        assert custom.patch_namespaced_custom_object(**GROUP, name="cust", body=cpus(2))["spec"]["cpus"] == 2
        status = custom.get_namespaced_custom_object_status(**GROUP, name="cust")
        assert status["status"]["phase"] == "Running"
        dry = custom.patch_namespaced_custom_object(**GROUP, name="cust", body=cpus(9), dry_run="All")
        assert dry["spec"]["cpus"] == 9
        found = custom.get_namespaced_custom_object(**GROUP, name="cust")
        assert found["spec"]["cpus"] == 2
        assert custom.list_custom_object_for_all_namespaces("nano", "v1", "instances", limit=1)["items"]
        custom.delete_collection_namespaced_custom_object(**GROUP, label_selector="by=cust")
        assert gone(cluster, "cust")
        with pytest.raises(ApiException) as refused:
            custom.get_namespaced_custom_object(**GROUP, name="cust")
        assert (refused.value.status, refused.value.reason) == (404, "Not Found")


def test_kubernetes_typed_clients_of_the_core(cluster: Cluster, kubeconfig: str) -> None:
    with kubernetes.config.new_client_from_config(kubeconfig) as api:
        core: Any = kubernetes.client.CoreV1Api(api)
        assert kubernetes.client.VersionApi(api).get_code().minor == "33"
        names = [group.name for group in kubernetes.client.ApisApi(api).get_api_versions().groups]
        assert "nano" in names
        space = kubernetes.client.V1Namespace(metadata=kubernetes.client.V1ObjectMeta(name="typed"))
        assert core.create_namespace(space).metadata.name == "typed"
        assert "typed" in [item.metadata.name for item in core.list_namespace().items]
        assert core.patch_namespace("typed", {"metadata": {"labels": {"a": "b"}}}).metadata.labels["a"] == "b"
        custom: Any = kubernetes.client.CustomObjectsApi(api)
        custom.create_namespaced_custom_object(**GROUP, body=instance("told"))
        until = time.monotonic() + SECONDS
        told: set[tuple[str, str, str]] = set()
        while ("Scheduled", "Instance", "Normal") not in told:
            assert time.monotonic() < until, told
            found = core.list_namespaced_event("default", field_selector="involvedObject.name=told").items
            told = {(one.reason, one.involved_object.kind, one.type) for one in found}
            time.sleep(0.05)
        core.delete_namespace("typed")
        assert cluster.get("namespaces/typed") is None
        review = kubernetes.client.V1SelfSubjectAccessReview(
            spec=kubernetes.client.V1SelfSubjectAccessReviewSpec(
                resource_attributes=kubernetes.client.V1ResourceAttributes(verb="create", resource="instances")
            )
        )
        rights: Any = kubernetes.client.AuthorizationV1Api(api)
        assert rights.create_self_subject_access_review(review).status.allowed is True


async def test_kubernetes_asyncio(cluster: Cluster, kubeconfig: str) -> None:
    async with await kubernetes_asyncio.config.new_client_from_config(kubeconfig) as api:
        custom: Any = kubernetes_asyncio.client.CustomObjectsApi(api)
        await custom.create_namespaced_custom_object(**GROUP, body=instance("aio"))
        async with kubernetes_asyncio.watch.Watch().stream(
            custom.list_namespaced_custom_object, **GROUP, field_selector="metadata.name=aio", timeout_seconds=SECONDS
        ) as events:
            async for event in events:
                if event["object"]["status"].get("phase") == "Running":
                    break
        patched = await custom.patch_namespaced_custom_object(**GROUP, name="aio", body=cpus(2), _content_type=MERGE)
        assert patched["spec"]["cpus"] == 2
        listed = await custom.list_namespaced_custom_object(**GROUP, label_selector="by=aio")
        assert [item["metadata"]["name"] for item in listed["items"]] == ["aio"]
        status = await custom.get_namespaced_custom_object_status(**GROUP, name="aio")
        assert status["status"]["phase"] == "Running"
        await custom.delete_namespaced_custom_object(**GROUP, name="aio")
        assert await asyncio.to_thread(gone, cluster, "aio")
        with pytest.raises(AsyncApiException) as refused:
            await custom.get_namespaced_custom_object(**GROUP, name="aio")
        assert refused.value.status == 404


async def test_kubernetes_asyncio_dynamic_client(cluster: Cluster, kubeconfig: str, tmp_path: Path) -> None:
    async with await kubernetes_asyncio.config.new_client_from_config(kubeconfig) as api:
        client: Any = await AsyncDynamicClient(api, cache_file=str(tmp_path / "discovery"))
        templates = await client.resources.get(api_version="nano/v1", kind="SystemTemplate")
        body = {"metadata": {"name": "aio"}, "spec": {"family": "Bsd"}}
        made = await templates.create(body=body)
        assert made.spec.diskBus == "Virtio"
        patch = {"spec": {"diskBus": "Sata"}}
        assert (await templates.patch(body=patch, name="aio", content_type=MERGE)).spec.diskBus == "Sata"
        assert "aio" in [item.metadata.name for item in (await templates.get()).items]
        assert (await templates.delete(name="aio")).status == "Success"
    assert cluster.get("systemtemplates/aio") is None


def test_lightkube(cluster: Cluster, kubeconfig: str) -> None:
    kind: Any = create_namespaced_resource("nano", "v1", "Instance", "instances")
    templates: Any = create_global_resource("nano", "v1", "SystemTemplate", "systemtemplates")
    with lightkube.Client(config=lightkube.KubeConfig.from_file(kubeconfig)) as client:
        doc = instance("light")
        made = client.create(kind(metadata=ObjectMeta.from_dict(doc["metadata"]), spec=doc["spec"]))
        assert made.metadata.uid
        ready = client.wait(kind, "light", for_conditions=[READY], namespace="default")
        assert ready["status"]["phase"] == "Running"
        assert [one.metadata.name for one in client.list(kind, labels={"by": "light"})] == ["light"]
        assert len(list(client.list(templates, chunk_size=2))) == len(list(client.list(templates)))
        client.patch(kind, "light", cpus(2), namespace="default", patch_type=PatchType.MERGE)
        word, first = next(iter(client.watch(kind, namespace="default", fields={"metadata.name": "light"})))
        assert (word, first["spec"]["cpus"]) == ("ADDED", 2)
        assert light_replaced(client, kind)["spec"]["displayName"] == "Replaced"
        with pytest.raises(lightkube.ApiError, match="type=merge"):
            client.patch(kind, "light", cpus(3), namespace="default")
        client.delete(kind, "light", namespace="default")
        assert gone(cluster, "light")
        with pytest.raises(lightkube.ApiError) as refused:
            client.get(kind, "light", namespace="default")
        assert (refused.value.status.code, refused.value.status.reason) == (404, "NotFound")


def light_replaced(client: Any, kind: Any) -> Any:
    """The instance after a replacement, which is tried again while controllers write its status in between."""
    while True:
        fresh = client.get(kind, "light", namespace="default")
        fresh["spec"]["displayName"] = "Replaced"
        try:
            return client.replace(fresh)
        except lightkube.ApiError as error:
            if error.status.code != 409:
                raise


async def test_kr8s(cluster: Cluster, kubeconfig: str) -> None:
    api: Any = await kr8s.asyncio.api(kubeconfig=kubeconfig)
    assert (await api.version())["minor"] == "33"
    assert await api.whoami() == "admin"
    kind: Any = kr8s.asyncio.objects.new_class(kind="Instance", version="nano/v1", namespaced=True, asyncio=True)
    one: Any = await kind(instance("eight"), api=api)
    await one.create()
    await one.wait("condition=Ready", timeout=SECONDS)
    assert [each.name async for each in kind.list(api=api, namespace="default", label_selector="by=eight")] == ["eight"]
    assert [each.name async for each in api.get("instances", "eight", namespace="default")] == ["eight"]
    await one.patch(cpus(2), type="merge")
    await one.refresh()
    assert (one.spec["cpus"], one.status["phase"]) == (2, "Running")
    await one.label({"tier": "front"})
    await one.annotate({"note": "hello"})
    async for word, seen in api.watch("instances", namespace="default"):
        assert (word, seen.name, seen.labels["tier"]) == ("ADDED", "eight", "front")
        break
    assert await one.exists()
    await one.delete()
    await one.wait("delete", timeout=SECONDS)
    assert not await one.exists()
    assert cluster.get("instances/eight") is None
    await api._session.aclose()  # it has no way of its own to end its connections


# --- scale ------------------------------------------------------------------------------------------------

SETS: dict[str, Any] = {**GROUP, "plural": "instancesets"}


def instance_set(name: str, replicas: int = 2) -> dict[str, Any]:
    """A set of small instances."""
    template = {"spec": instance("x")["spec"]}
    spec = {"replicas": replicas, "template": template}
    metadata = {"name": name, "namespace": "default"}
    return {"apiVersion": "nano/v1", "kind": "InstanceSet", "metadata": metadata, "spec": spec}


def ready(cluster: Cluster, name: str, members: int) -> bool:
    """Whether so many members and no others are there within a while."""
    until = time.monotonic() + SECONDS
    while True:
        status = (cluster.get(f"instancesets/{name}") or {}).get("status", {})
        if (status.get("replicas"), status.get("readyReplicas")) == (members, members):
            return True
        if time.monotonic() > until:
            return False
        time.sleep(0.05)


def test_kubernetes_dynamic_client_scales(cluster: Cluster, kubeconfig: str, tmp_path: Path) -> None:
    with kubernetes.config.new_client_from_config(kubeconfig) as api:
        client: Any = DynamicClient(api, cache_file=str(tmp_path / "discovery"))
        sets = client.resources.get(api_version="nano/v1", kind="InstanceSet")
        sets.create(body=instance_set("dyn"), namespace="default")
        assert ready(cluster, "dyn", 2)
        found = sets.scale.get(name="dyn", namespace="default")
        assert (found.kind, found.spec.replicas, found.status.replicas) == ("Scale", 2, 2)
        assert found.status.selector == "nano/instance-set=dyn"
        body = {"spec": {"replicas": 3}}
        patched = sets.scale.patch(body=body, name="dyn", namespace="default", content_type=MERGE)
        assert patched.spec.replicas == 3
        with pytest.raises(ConflictError):
            sets.scale.replace(body=found.to_dict(), name="dyn", namespace="default")
        assert ready(cluster, "dyn", 3)


def test_kubernetes_custom_objects_scale(cluster: Cluster, kubeconfig: str) -> None:
    with kubernetes.config.new_client_from_config(kubeconfig) as api:
        custom: Any = kubernetes.client.CustomObjectsApi(api)
        custom.create_namespaced_custom_object(**SETS, body=instance_set("cust"))
        assert ready(cluster, "cust", 2)
        body = {"spec": {"replicas": 1}}
        dry = custom.patch_namespaced_custom_object_scale(**SETS, name="cust", body=body, dry_run="All")
        assert dry["spec"]["replicas"] == 1
        found = custom.get_namespaced_custom_object_scale(**SETS, name="cust")
        assert (found["kind"], found["spec"]["replicas"]) == ("Scale", 2)
        found["spec"]["replicas"] = 1
        assert custom.replace_namespaced_custom_object_scale(**SETS, name="cust", body=found)["spec"]["replicas"] == 1
        assert ready(cluster, "cust", 1)
        with pytest.raises(ApiException) as refused:
            custom.get_namespaced_custom_object_scale(**GROUP, name="cust-1")
        assert refused.value.status == 404


async def test_kubernetes_asyncio_scales(cluster: Cluster, kubeconfig: str, tmp_path: Path) -> None:
    async with await kubernetes_asyncio.config.new_client_from_config(kubeconfig) as api:
        custom: Any = kubernetes_asyncio.client.CustomObjectsApi(api)
        await custom.create_namespaced_custom_object(**SETS, body=instance_set("aio"))
        body = {"spec": {"replicas": 3}}
        scaled = await custom.patch_namespaced_custom_object_scale(**SETS, name="aio", body=body, _content_type=MERGE)
        assert scaled["spec"]["replicas"] == 3
        assert await asyncio.to_thread(ready, cluster, "aio", 3)
        client: Any = await AsyncDynamicClient(api, cache_file=str(tmp_path / "discovery"))
        sets = await client.resources.get(api_version="nano/v1", kind="InstanceSet")
        assert (await sets.scale.get(name="aio", namespace="default")).status.replicas == 3


def test_lightkube_scales(cluster: Cluster, kubeconfig: str) -> None:
    kind: Any = create_namespaced_resource("nano", "v1", "InstanceSet", "instancesets")
    with lightkube.Client(config=lightkube.KubeConfig.from_file(kubeconfig)) as client:
        doc = instance_set("light")
        client.create(kind(metadata=ObjectMeta.from_dict(doc["metadata"]), spec=doc["spec"]))
        assert ready(cluster, "light", 2)
        found = client.get(kind.Scale, "light", namespace="default")
        assert (found.spec.replicas, found.status.selector) == (2, "nano/instance-set=light")
        found.metadata.resourceVersion = None
        found.spec.replicas = 3
        assert client.replace(found, "light", namespace="default").spec.replicas == 3
        body = {"spec": {"replicas": 0}}
        patched = client.patch(kind.Scale, "light", body, namespace="default", patch_type=PatchType.MERGE)
        assert not patched.spec.replicas
        assert ready(cluster, "light", 0)


async def test_kr8s_scales(cluster: Cluster, kubeconfig: str) -> None:
    api: Any = await kr8s.asyncio.api(kubeconfig=kubeconfig)
    kind: Any = kr8s.asyncio.objects.new_class(
        kind="InstanceSet", version="nano/v1", namespaced=True, asyncio=True, scalable=True
    )
    one: Any = await kind(instance_set("eight"), api=api)
    await one.create()
    await one.wait("condition=Ready", timeout=SECONDS)
    await one.scale(3)
    assert one.replicas == 3
    assert await asyncio.to_thread(ready, cluster, "eight", 3)
    await one.delete()
    await one.wait("delete", timeout=SECONDS)
    await api._session.aclose()  # it has no way of its own to end its connections
