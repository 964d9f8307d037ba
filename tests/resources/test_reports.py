"""The reports half: what is worth waking a controller for."""

from __future__ import annotations

from nanovirt.resources.kind import Key
from nanovirt.resources.report import HostFacts, HostReport, lost_after
from nanovirt.resources.reports import Reports

NODE = Key("hosts", "", "node-1")


def woken(*reports: tuple[float, HostReport]) -> list[Key]:
    heard: list[Key] = []
    half = Reports(0.0)
    half.subscribe(heard.append)
    for at, report in reports:
        half.hear("node-1", report, at)
    return heard


def test_report_that_says_nothing_new_wakes_nobody() -> None:
    assert woken((1.0, HostReport(sequence=1)), (3.0, HostReport(sequence=2))) == [NODE]


def test_changed_facts_wake() -> None:
    assert len(woken((1.0, HostReport()), (3.0, HostReport(facts=HostFacts(boot_id="b"))))) == 2


def test_report_that_ends_a_silence_wakes_even_if_it_says_the_same() -> None:
    assert len(woken((1.0, HostReport()), (1.0 + lost_after(), HostReport()))) == 2
