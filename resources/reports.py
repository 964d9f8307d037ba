"""The reports half: memory only, the latest report of each host and the progress of each upload, never in the log."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from nanovirt.resources.kind import Key
from nanovirt.resources.report import HostReport, ImageProgress, lost_after
from nanovirt.resources.usage import Usage, total

RECENT = 450
"""Reports of a host whose usage is remembered: a quarter of an hour."""


class Heard(NamedTuple):
    """The latest report of a host, and when it came (seconds of the server's own monotonic clock)."""

    report: HostReport
    at: float


class Moment(NamedTuple):
    """What a host has used at a time of the server's own monotonic clock; `machines` is all of them together."""

    at: float
    machines: Usage
    cpu: float
    memory: float


class Reports:
    """Empty after every start: the server knows nothing until a full lease with its margin has passed."""

    def __init__(self, started: float) -> None:
        """`started`: the server's monotonic clock now."""
        self.started = started
        self._hosts: dict[str, Heard] = {}
        self._recent: dict[str, deque[Moment]] = {}
        self._images: dict[Key, ImageProgress] = {}
        self._sinks: list[Callable[[Key], None]] = []

    def subscribe(self, sink: Callable[[Key], None]) -> None:
        """Call `sink` with the key of a Host or Image about which something new was heard."""
        self._sinks.append(sink)

    def heard(self, host: str) -> Heard | None:
        """The latest report, or None since the server started."""
        return self._hosts.get(host)

    def hear(self, host: str, report: HostReport, now: float) -> None:
        """Take a report; only one that says something new (or ends a silence) wakes anybody."""
        before = self._hosts.get(host)
        self._hosts[host] = Heard(report, now)
        usage = report.usage
        moment = Moment(now, total(usage), usage.host_cpu, usage.host_memory)
        self._recent.setdefault(host, deque(maxlen=RECENT)).append(moment)
        if before is None or now - before.at >= lost_after() or _news(before.report) != _news(report):
            self._tell(Key("hosts", "", host))

    def image(self, key: Key) -> ImageProgress | None:
        """How far an image is."""
        return self._images.get(key)

    def note_image(self, key: Key, progress: ImageProgress) -> None:
        """Keep the progress of an image."""
        if self._images.get(key) != progress:
            self._images[key] = progress
            self._tell(key)

    def recent(self, host: str) -> tuple[Moment, ...]:
        """What the host and its machines together have used in the last quarter of an hour, oldest first."""
        return tuple(self._recent.get(host, ()))

    def forget(self, key: Key) -> None:
        """Drop what was heard of an object that is gone."""
        self._images.pop(key, None)
        if key.plural == "hosts":
            self._hosts.pop(key.name, None)
            self._recent.pop(key.name, None)

    def _tell(self, key: Key) -> None:
        for sink in self._sinks:
            sink(key)


def _news(report: HostReport) -> tuple[object, ...]:
    """What somebody acts on: free room by whole percents, since it changes all the time."""
    facts = report.facts
    room = tuple((one.path, one.total, one.free * 100 // max(1, one.total), one.error) for one in facts.storage)
    return facts.model_copy(update={"storage": ()}), room, report.unclaimed, report.holdings, report.removals
