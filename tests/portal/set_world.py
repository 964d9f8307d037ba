"""A world in which sets of writes can be sent, and the writes that they are made of."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from nanovirt.portal.api.transactions import Foresee, nothing
from nanovirt.resources.log import Log
from tests.portal.api_world import NANO, Reply, World, instance, world

JSON = dict[str, Any]
SETS = f"{NANO}/transactions"
STORAGE: JSON = {"apiVersion": "nano/v1", "kind": "StoragePool", "metadata": {"name": "local"}}
STORAGE |= {"spec": {"type": "Local", "local": {"path": "/var/lib/nano/volumes"}}}
COMPUTE: JSON = {"apiVersion": "nano/v1", "kind": "ComputePool", "metadata": {"name": "default"}}
COMPUTE |= {"spec": {"storagePool": "local"}}
TEMPLATE: JSON = {"apiVersion": "nano/v1", "kind": "SystemTemplate", "metadata": {"name": "linux"}, "spec": {}}
IMAGE: JSON = {"apiVersion": "nano/v1", "kind": "Image", "metadata": {"name": "debian", "namespace": "shared"}}
IMAGE |= {"spec": {"type": "Disk", "source": {"upload": {}}}}


def machine(name: str, namespace: str = "default", **spec: Any) -> JSON:
    doc = instance(name, **spec)
    return doc | {"metadata": {"name": name, "namespace": namespace}}


def card(ip: str = "", mac: str = "", addresses: str = "lan") -> list[JSON]:
    return [{"name": "nic0", "addressPool": addresses} | ({"ip": ip} if ip else {}) | ({"mac": mac} if mac else {})]


def create(*docs: JSON) -> list[JSON]:
    return [{"verb": "create", "object": doc} for doc in docs]


def named(verb: str, kind: str, name: str, namespace: str = "", **more: Any) -> JSON:
    return {"verb": verb, "kind": kind, "name": name, **({"namespace": namespace} if namespace else {}), **more}


@asynccontextmanager
async def ready(log: Log | None = None, foresee: Foresee = nothing) -> AsyncIterator[World]:
    """A world with the pools that instances refer to by default."""
    async with world(log=log, foresee=foresee) as w:
        for doc in (TEMPLATE, STORAGE, COMPUTE):
            await w.make(f"{NANO}/{doc['kind'].lower()}s", doc)
        yield w


async def send(w: World, *writes: JSON, query: str = "", **kwargs: Any) -> Reply:
    doc = {"apiVersion": "nano/v1", "kind": "Transaction", "writes": list(writes)}
    headers = {"Content-Type": "application/json", **kwargs.pop("headers", {})}
    return await w.call("POST", SETS + query, data=io.BytesIO(json.dumps(doc).encode()), headers=headers, **kwargs)


def causes(reply: Reply) -> dict[str, str]:
    """Field -> reason of every cause."""
    return {one["field"]: one["reason"] for one in reply.doc["details"]["causes"]}
