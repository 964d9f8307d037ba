"""The Prometheus endpoint: what the server knows of hosts and machines, for who may see all of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from nanovirt.portal.authorization import unlimited, visible
from nanovirt.portal.identity import Subject
from nanovirt.portal.usage import Figures
from nanovirt.resources.errors import Forbidden
from nanovirt.resources.kind import KINDS, Key
from nanovirt.resources.store import Store
from nanovirt.resources.usage import METRICS, Usage


class Metrics:
    """GET /metrics, with a token or certificate as for everything else: there is no open listener."""

    def __init__(self, store: Store, figures: Figures, identify: Callable[[web.BaseRequest], Subject]) -> None:
        self._store, self._figures, self._identify = store, figures, identify

    @property
    def pages(self) -> Mapping[tuple[str, str], Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]]:
        """(method, path) -> who answers."""
        return {("GET", "/metrics"): self.answer}

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Instances that the caller may see; hosts and counts for administrators only. Forbidden for hosts."""
        subject = self._identify(request)
        if subject.host:
            raise Forbidden(f"{subject.name} may not read metrics")
        registry = CollectorRegistry()
        registry.register(_Families(self._families(subject)))
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    def _families(self, subject: Subject) -> Iterable[Metric]:
        seen = {key: (host, usage) for host, key, usage in self._figures.every() if self._sees(subject, key)}
        for field, (name, help_text) in METRICS.items():
            made = GaugeMetricFamily(f"nano_instance_{name}", help_text, labels=("namespace", "instance", "host"))
            for key, (host, usage) in seen.items():
                made.add_metric((key.namespace, key.name, host), getattr(usage, field))
            yield made
        if unlimited(subject):
            yield from self._of_hosts()
            yield self._of_store()

    def _of_hosts(self) -> Iterable[Metric]:
        known = list(self._figures.every_host())
        up = GaugeMetricFamily("nano_host_up", "Whether the host reports", labels=("host",))
        reporting = {host for host, *_ in known}
        for key, _ in self._store.list("hosts"):
            up.add_metric((key.name,), float(key.name in reporting))
        yield up
        cpu = GaugeMetricFamily("nano_host_cpu_cores", "Processors that are busy, whatever with", labels=("host",))
        memory = GaugeMetricFamily("nano_host_memory_bytes", "Memory that is not available", labels=("host",))
        for host, _, busy, taken in known:
            cpu.add_metric((host,), busy)
            memory.add_metric((host,), taken)
        yield from (cpu, memory)
        for field in Usage._fields:
            name, help_text = METRICS[field]
            made = GaugeMetricFamily(f"nano_host_machines_{name}", f"{help_text}, all together", labels=("host",))
            for host, usage, *_ in known:
                made.add_metric((host,), getattr(usage, field))
            yield made

    def _of_store(self) -> Metric:
        made = GaugeMetricFamily("nano_objects", "Objects in the store", labels=("kind",))
        for plural in sorted(KINDS):
            made.add_metric((plural,), float(len(self._store.list(plural))))
        return made

    def _sees(self, subject: Subject, key: Key) -> bool:
        entry = self._store.peek(key)
        return entry is not None and visible(subject, key, entry)


class _Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families
