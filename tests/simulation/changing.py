"""Random wishes: new instances, and changes of those that are there, as manifests that people might write."""

from __future__ import annotations

import random
from collections.abc import Callable
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from typing import Any

JSON = dict[str, Any]
IMAGES = ("mini", "large")
HOSTS = 5
BEGAN = datetime(2026, 11, 25, 9, 0, 0, tzinfo=UTC)
SINGLE = 0.6
"""Share of changes that touch one field only."""


class Generator:
    """Makes manifests; deterministic under its seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.manifests: dict[str, JSON] = {}
        self._earlier: dict[str, JSON] = {}
        self._made = 0
        self._orders = 0
        self._fields: tuple[tuple[int, Callable[[JSON], None]], ...] = (
            (5, self._cpus),
            (5, self._memory),
            (4, self._revert),
            (6, self._power),
            (6, self._restart),
            (2, self._policy),
            (2, self._grace),
            (2, self._hostname),
            (2, self._guest),
            (1, self._format),
            (1, self._display_name),
            (1, self._description),
            (2, self._labels),
            (1, self._protection),
            (1, self._disks),
            (1, self._nics),
            (1, self._pool),
            (1, self._host),
            (1, self._template),
        )

    # --- new ones ---

    def new(self) -> list[JSON]:
        """One to three new instances."""
        return [self._instance() for _ in range(self.random.choice((1, 1, 1, 2, 3)))]

    def _instance(self) -> JSON:
        self._made += 1
        rnd, spec = self.random, dict[str, Any]()
        spec["cpus"] = rnd.choice((1, 2, 4, 8, 24))
        spec["memory"] = rnd.choice(("512Mi", "1Gi", "4Gi", "16Gi", "48Gi", "100Gi"))
        spec["disks"] = [self._disk("system")] + ([self._disk("data")] if rnd.random() < 0.2 else [])
        if rnd.random() < 0.5:
            spec["nics"] = [self._nic(number) for number in range(rnd.choice((0, 1, 1, 2)))]
        if rnd.random() < 0.2:
            spec["scheduling"] = {"host": f"node-{rnd.randint(1, HOSTS)}"}
        if rnd.random() < 0.2:
            spec["powerState"] = "Stopped"
        if rnd.random() < 0.1:
            spec["computePool"] = rnd.choice(("empty", "closed"))
        name = f"web-{self._made}"
        return {"apiVersion": "nano/v1", "kind": "Instance", "metadata": {"name": name}, "spec": spec}

    def _disk(self, name: str) -> JSON:
        if self.random.random() < 0.2:
            return {"name": name, "size": self.random.choice(("1Gi", "500Gi"))}
        source = {"image": f"shared/{self.random.choice(IMAGES)}"}
        return {"name": name, "source": source} | ({"size": "30Gi"} if self.random.random() < 0.5 else {})

    def _nic(self, number: int) -> JSON:
        kind = self.random.choice(("lan", "tiny", "tiny", "asked", "network"))
        nic: JSON = {"name": f"nic{number}"}
        if kind == "network":
            return nic | {"network": "default"}
        if kind == "asked":
            return nic | {"addressPool": "lan", "ip": f"10.87.2.{self.random.randint(1, 60)}"}
        return nic | {"addressPool": kind}

    def accepted(self, doc: JSON) -> None:
        """The manifest is in force now."""
        name = doc["metadata"]["name"]
        self._earlier[name] = self.manifests.get(name, doc)
        self.manifests[name] = doc

    # --- changes ---

    def pool(self) -> JSON:
        """The small address pool with another resolver, router or lease."""
        few = [{"name": "few", "first": "10.99.0.10", "last": "10.99.0.17"}]
        spec: JSON = {"network": "default", "subnet": "10.99.0.0/24", "ranges": few}
        spec["dns"] = [f"10.99.0.{self.random.randint(1, 9)}"]
        spec["leaseSeconds"] = self.random.choice((60, 3600))
        return {"apiVersion": "nano/v1", "kind": "AddressPool", "metadata": {"name": "tiny"}, "spec": spec}

    def change(self, name: str) -> JSON:
        """The manifest of an instance with one field changed, or a few."""
        doc = deepcopy(self.manifests[name])
        doc["spec"].setdefault("guest", {})
        count = 1 if self.random.random() < SINGLE else self.random.randint(2, 3)
        weights, acts = zip(*self._fields, strict=True)
        for act in self.random.choices(acts, weights, k=count):
            act(doc)
        return doc

    def anew(self, name: str) -> JSON:
        """The manifest of an instance with the wish to run, and an order to start anew."""
        doc = deepcopy(self.manifests[name])
        self._orders += 1
        doc["spec"] |= {"powerState": "Running", "restart": {"at": self._at(self._orders), "mode": "Hard"}}
        return doc

    def _at(self, order: int) -> str:
        return (BEGAN + timedelta(seconds=order)).strftime("%Y-%m-%dT%H:%M:%SZ")

    def _cpus(self, doc: JSON) -> None:
        doc["spec"]["cpus"] = self.random.choice((1, 2, 3, 4))

    def _memory(self, doc: JSON) -> None:
        doc["spec"]["memory"] = self.random.choice(("512Mi", "1Gi", "1024Mi", "2Gi", "1.5Gi"))

    def _revert(self, doc: JSON) -> None:
        """Take the last change of the hardware back."""
        earlier = self._earlier[doc["metadata"]["name"]]["spec"]
        doc["spec"] |= {"cpus": earlier["cpus"], "memory": earlier["memory"]}

    def _power(self, doc: JSON) -> None:
        doc["spec"]["powerState"] = "Running" if doc["spec"].get("powerState") == "Stopped" else "Stopped"

    def _restart(self, doc: JSON) -> None:
        if "restart" in doc["spec"] and self.random.random() < 0.2:
            del doc["spec"]["restart"]
            return
        order = doc["spec"].get("restart", {})
        kind = self.random.random()
        if order and kind < 0.15:
            doc["spec"]["restart"] = order | {"mode": "Hard" if order["mode"] == "Graceful" else "Graceful"}
            return
        self._orders += 1
        at = self._at(self._orders if kind > 0.4 or not order else 0)
        doc["spec"]["restart"] = {"at": at, "mode": self.random.choice(("Graceful", "Hard"))}

    def _policy(self, doc: JSON) -> None:
        doc["spec"]["restartPolicy"] = self.random.choice(("OnFailure", "Always", "Never"))

    def _grace(self, doc: JSON) -> None:
        doc["spec"]["stopGraceSeconds"] = self.random.choice((0, 1, 30, 60))

    def _hostname(self, doc: JSON) -> None:
        doc["spec"]["guest"] = {"hostname": f"host-{self.random.randint(1, 99)}"}

    def _guest(self, doc: JSON) -> None:
        """What only a seed tells; often what it was before."""
        rnd = self.random
        guest: JSON = {"timeZone": rnd.choice(("Asia/Shanghai", "Europe/Berlin")), "userDataSecret": "words"}
        guest |= {"admin": {"name": rnd.choice(("root", "ops")), "passwordSecret": rnd.choice(("words", "login"))}}
        name = rnd.choice(sorted(guest))
        doc["spec"]["guest"] = {name: guest[name]} if rnd.random() < 0.7 else {}

    def _format(self, doc: JSON) -> None:
        last = doc["spec"]["disks"][-1]
        if "source" not in last:
            last["format"] = {"mountPath": self.random.choice(("/srv", "/data")), "fileSystem": "Xfs"}

    def _display_name(self, doc: JSON) -> None:
        doc["spec"]["displayName"] = f"Machine {self.random.randint(1, 99)}"

    def _description(self, doc: JSON) -> None:
        doc["spec"]["description"] = f"Number {self.random.randint(1, 99)}"

    def _labels(self, doc: JSON) -> None:
        doc["metadata"]["labels"] = {self.random.choice("ab"): str(self.random.randint(1, 9))}

    def _protection(self, doc: JSON) -> None:
        doc["spec"]["deletionProtection"] = not doc["spec"].get("deletionProtection", False)

    def _disks(self, doc: JSON) -> None:
        doc["spec"]["disks"] = [*doc["spec"]["disks"], {"name": f"more-{len(doc['spec']['disks'])}", "size": "1Gi"}]

    def _nics(self, doc: JSON) -> None:
        doc["spec"]["nics"] = [{"name": "other", "network": "default"}]

    def _pool(self, doc: JSON) -> None:
        doc["spec"]["computePool"] = "closed" if doc["spec"].get("computePool") == "empty" else "empty"

    def _host(self, doc: JSON) -> None:
        doc["spec"]["scheduling"] = {"host": f"node-{self.random.randint(1, HOSTS)}"}

    def _template(self, doc: JSON) -> None:
        doc["spec"]["systemTemplate"] = self.random.choice(("linux", "linux-bios", "legacy"))
