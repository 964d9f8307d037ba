"""What Prometheus reads of an agent, read by Prometheus' own parser."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from nanovirt.agent import exposition
from nanovirt.agent.exposition import MACHINES_MAX
from nanovirt.resources.usage import METRICS, Usage, reported

USED = {"u1": Usage(cpu=1.5, memory=2.0**30, net_in=1e6), "u2": Usage(cpu=0.25)}
NAMES = {"u1": ("default", "web-1")}


def read(text: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    families = text_string_to_metric_families(text)
    return {one.name: [(sample.labels, sample.value) for sample in one.samples] for one in families}


def test_instances_are_named_and_machines_of_nobody_counted_only() -> None:
    found = read(exposition.exposition("node-1", NAMES, reported(USED, 2.5, 4e9), 7.5))
    labels = {"namespace": "default", "instance": "web-1", "host": "node-1"}
    assert found["nano_instance_cpu_cores"] == [(labels, 1.5)]
    assert found["nano_instance_memory_bytes"] == [(labels, 2.0**30)]
    assert found["nano_instance_network_received_bytes_per_second"] == [(labels, 1e6)]
    assert {f"nano_instance_{name}" for name, _ in METRICS.values()} <= found.keys()
    host = {"host": "node-1"}
    assert found["nano_host_cpu_cores"] == [(host, 2.5)]
    assert found["nano_host_memory_bytes"] == [(host, 4e9)]
    assert found["nano_host_machines"] == [(host, 2.0)]
    assert found["nano_agent_lease_seconds"] == [(host, 7.5)]


def test_host_without_machines_still_tells_of_itself() -> None:
    found = read(exposition.exposition("node-1", {}, reported({}), -3.0))
    assert found["nano_instance_cpu_cores"] == []
    assert found["nano_agent_lease_seconds"] == [({"host": "node-1"}, 0.0)]


def test_names_cannot_break_out_of_their_labels() -> None:
    odd = 'a"\\\n} 1'
    found = read(exposition.exposition(odd, {"u1": ("x", odd)}, reported(USED), 0.0))
    assert found["nano_instance_cpu_cores"] == [({"namespace": "x", "instance": odd, "host": odd}, 1.5)]


def test_what_is_told_is_bounded() -> None:
    many = {f"u{number}": Usage(cpu=1.0) for number in range(MACHINES_MAX + 5)}
    names = {uuid: ("default", uuid) for uuid in many}
    found = read(exposition.exposition("node-1", names, reported(many), 1.0))
    assert len(found["nano_instance_cpu_cores"]) == MACHINES_MAX
    assert found["nano_host_machines"] == [({"host": "node-1"}, float(len(many)))]
