"""What a host and its machines use, as Prometheus reads it (text exposition format 0.0.4), with or without a server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice

from nanovirt.resources.usage import METRICS, Usage, UsageReport

TYPE = "text/plain; version=0.0.4; charset=utf-8"
MACHINES_MAX = 2000
"""Machines that are told at a time, 8 lines each; `nano_host_machines` says how many there are."""
Names = Mapping[str, tuple[str, str]]
"""By uuid of the domain: namespace and name of the instance."""


def exposition(host: str, names: Names, usage: UsageReport, lease: float) -> str:
    """The figures of the latest sample. `lease`: seconds for which the server still counts the host as alive."""
    return "".join(f"{line}\n" for line in _lines(host, names, usage, lease))


def _lines(host: str, names: Names, usage: UsageReport, lease: float) -> Iterator[str]:
    known = ((names[uuid], used) for uuid, used in usage.rows() if uuid in names)
    told = [(_labels(host, namespace, name), used) for (namespace, name), used in islice(known, MACHINES_MAX)]
    for at, field in enumerate(Usage._fields):
        name, help_text = METRICS[field]
        yield from _head(f"nano_instance_{name}", help_text)
        for labels, used in told:
            yield f"nano_instance_{name}{labels} {_number(used[at])}"
    for name, help_text, value in (
        ("nano_host_cpu_cores", "Processors that are busy, whatever with", usage.host_cpu),
        ("nano_host_memory_bytes", "Memory that is not available", usage.host_memory),
        ("nano_host_machines", "Machines that run, also those that nobody claims", len(usage.machines)),
        ("nano_agent_lease_seconds", "For how long the server still counts the host as alive", max(0.0, lease)),
    ):
        yield from _head(name, help_text)
        yield f"{name}{_labels(host)} {_number(value)}"


def _head(name: str, help_text: str) -> Iterator[str]:
    yield f"# HELP {name} {help_text}"
    yield f"# TYPE {name} gauge"


def _labels(host: str, namespace: str = "", instance: str = "") -> str:
    pairs = [("namespace", namespace), ("instance", instance)] if instance else []
    said = ",".join(f'{name}="{_escaped(value)}"' for name, value in (*pairs, ("host", host)))
    return f"{{{said}}}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    return repr(float(value))
