"""Small instances, and waiting for what becomes of them: on a busy machine nothing has a time of its own."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from typing import Any

from nanovirt.resources.client import Client
from nanovirt.resources.codec import JSON
from nanovirt.resources.kind import Key
from tests.e2e.server_process import PATIENT


async def until(client: Client, key: Key, wanted: str, seconds: float = PATIENT) -> JSON:
    """The object once its phase is `wanted`; AssertionError with its status otherwise."""
    deadline = time.monotonic() + seconds
    while True:
        doc = await client.get(key)
        if doc["status"].get("phase") == wanted:
            return doc
        assert time.monotonic() < deadline, f"{key} is not {wanted}: {json.dumps(doc['status'], indent=1)}"
        await asyncio.sleep(0.05)


async def until_all(client: Client, names: Sequence[str], wanted: str, seconds: float = PATIENT) -> dict[str, JSON]:
    """The instances of `default` by those names, once each of them has that phase."""
    deadline = time.monotonic() + seconds
    while True:
        items, _ = await client.list("instances", "default")
        found = {item["metadata"]["name"]: item for item in items if item["metadata"]["name"] in names}
        others = {name: phase(found.get(name)) for name in names if phase(found.get(name)) != wanted}
        if not others:
            return found
        assert time.monotonic() < deadline, f"not {wanted}: {others}"
        await asyncio.sleep(0.2)


async def until_ready(client: Client, key: Key, wanted: str = "True", seconds: float = PATIENT) -> JSON:
    """The object once its condition Ready has that status."""
    deadline = time.monotonic() + seconds
    while True:
        doc = await client.get(key)
        if condition(doc).get("status") == wanted:
            return doc
        assert time.monotonic() < deadline, f"{key}: {condition(doc)}"
        await asyncio.sleep(0.05)


async def until_reason(client: Client, key: Key, reason: str) -> JSON:
    """The condition Ready of the object, once it has that reason."""
    deadline = time.monotonic() + PATIENT
    while True:
        ready = condition(await client.get(key))
        if ready.get("reason") == reason:
            return ready
        assert time.monotonic() < deadline, f"{key}: {ready}"
        await asyncio.sleep(0.05)


async def until_gone(client: Client, plural: str, seconds: float = PATIENT) -> None:
    """Return once there is no object of that kind; AssertionError naming those that are there too long."""
    deadline = time.monotonic() + seconds
    while True:
        items, _ = await client.list(plural)
        if not items:
            return
        assert time.monotonic() < deadline, f"{plural} left: {[item['metadata']['name'] for item in items]}"
        await asyncio.sleep(0.05)


async def until_gone_named(client: Client, name: str) -> None:
    """Return once that instance is gone."""
    deadline = time.monotonic() + PATIENT
    while any(item["metadata"]["name"] == name for item in (await client.list("instances"))[0]):
        assert time.monotonic() < deadline, f"{name} is still there"
        await asyncio.sleep(0.05)


CALM = 3.0
"""Longer than totals are held back (controllers.loops.SOON)."""


async def quiet(client: Client, seconds: float = CALM) -> str:
    """The revision at which the store has been standing still for so long."""
    before, since = "", time.monotonic()
    while True:
        _, revision = await client.list("namespaces", limit=1)
        if revision != before:
            before, since = revision, time.monotonic()
        elif time.monotonic() - since >= seconds:
            return revision
        await asyncio.sleep(0.05)


def phase(instance: JSON | None) -> str:
    """The phase, "" for an instance that is not there."""
    return str(instance["status"].get("phase", "")) if instance else ""


def condition(doc: JSON, kind: str = "Ready") -> JSON:
    """The condition of that type, {} when there is none."""
    return next((dict(one) for one in doc["status"].get("conditions", ()) if one["type"] == kind), {})


def instance(name: str, **spec: Any) -> JSON:
    """A small instance with one disk of the demonstration image."""
    disks = [{"name": "system", "source": {"image": "shared/mini"}}]
    return {
        "apiVersion": "nano/v1",
        "kind": "Instance",
        "metadata": {"name": name},
        "spec": {"memory": "256Mi", "disks": disks, **spec},
    }


def instance_key(name: str) -> Key:
    """Where an instance of the namespace `default` stands."""
    return Key("instances", "default", name)


async def run(client: Client, name: str, **spec: Any) -> JSON:
    """A new instance, once it runs."""
    await client.create(instance(name, **spec))
    return await until(client, instance_key(name), "Running")


def addresses(docs: dict[str, JSON]) -> list[str]:
    """Every address of these instances."""
    return [one["ip"] for doc in docs.values() for one in doc["status"]["addresses"]]
