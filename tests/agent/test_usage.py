"""From counters to figures, the task that samples, and the files that keep what was."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanovirt.agent.history import ARCHIVES, FILE_SIZE, POINTS_MAX, SIZE, History
from nanovirt.agent.hypervisor_looks import counted
from nanovirt.agent.machine import Counters
from nanovirt.agent.simulation import SimulatedMachine
from nanovirt.agent.usage import HostCounters, Sampler, host_counters, rates
from nanovirt.resources.errors import HypervisorError, Invalid
from nanovirt.resources.usage import Usage, UsageReport, reported, total
from tests.agent.placements import UUID, spec, uuid
from tests.simulation.virtual_time import now, run_virtually

NOON = 1_700_000_000.0 // 900 * 900
"""The beginning of a slot of every archive."""


def test_rates_are_differences_by_the_second() -> None:
    before = Counters(10**9, 5, 1000, 100, 10, 1, 7000, 70)
    after = Counters(4 * 10**9, 6, 3000, 300, 30, 3, 9000, 90)
    assert rates(before, after, 2.0) == Usage(1.5, 6.0, 1000.0, 100.0, 10.0, 1.0, 1000.0, 10.0)


def test_counter_that_went_back_belongs_to_another_run() -> None:
    assert rates(Counters(cpu_ns=9 * 10**9), Counters(cpu_ns=10**9), 2.0).cpu == 0.5


def test_record_of_libvirt_is_summed_over_disks_and_cards() -> None:
    record = {
        "cpu.time": 5, "balloon.available": 1000, "balloon.unused": 400, "balloon.rss": 5000,
        "block.count": 2, "block.0.rd.bytes": 1, "block.1.rd.bytes": 2, "block.1.wr.bytes": 4, "block.0.rd.reqs": 8,
        "block.0.wr.reqs": 16, "net.count": 2, "net.0.rx.bytes": 32, "net.1.rx.bytes": 64, "net.1.tx.bytes": 128,
    }  # fmt: skip
    assert counted(record) == Counters(5, 600 * 1024, 3, 4, 8, 16, 96, 128)
    assert counted({"balloon.rss": 7}) == Counters(memory=7 * 1024), "no driver in the guest, no disks, no cards"


def test_waiting_for_a_disk_is_not_busy() -> None:
    stat = "cpu  100 10 50 5000 400 5 5 30 77 0\ncpu0 1 2 3\n"
    found = host_counters(stat, "MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 400 kB\n")
    assert found == HostCounters(2.0, 600 * 1024.0)


def test_report_is_column_by_column_and_read_row_by_row() -> None:
    found = {"a": Usage(1.23456, 2.6), "b": Usage(2.0, 1.0, 3.0)}
    report = UsageReport.model_validate_json(reported(found).model_dump_json())
    assert dict(report.rows()) == {"a": Usage(1.235, 3.0), "b": Usage(2.0, 1.0, 3.0)}
    assert total(report) == pytest.approx(Usage(3.235, 4.0, 3.0))


def test_columns_that_lie_about_their_length_are_cut() -> None:
    assert not dict(UsageReport(machines=("a", "b"), cpu=(1.0,)).rows())


def test_sampler_knows_after_two_looks_and_nothing_while_the_hypervisor_is_away() -> None:
    async def told() -> None:
        machine = SimulatedMachine("node-1")
        for volume in spec().volumes:
            machine.had([(volume.file, 1)])
        await machine.define(spec(), "d")
        await machine.start(UUID)
        sampler = Sampler(machine, now)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(sampler.run())
            await asyncio.sleep(1)
            assert not dict(sampler.latest.rows())
            await asyncio.sleep(4)
            found = dict(sampler.latest.rows())[UUID]
            assert found.cpu == pytest.approx(0.2, abs=0.01)
            assert found.net_in == pytest.approx(8192, abs=2)
            machine.faults.away = True
            await asyncio.sleep(4)
            assert not dict(sampler.latest.rows())
            machine.faults.away = False
            await asyncio.sleep(5)
            assert UUID in dict(sampler.latest.rows())
            running.cancel()

    run_virtually(told())


# --- history ---------------------------------------------------------------------------------------------------------


def kept(folder: Path, values: Mapping[float, float]) -> History:
    history = History(folder)
    for at, cpu in values.items():
        history.add(at, {UUID: Usage(cpu=cpu)})
    return history


def test_what_was_noted_is_found_again_with_gaps_where_nothing_was(tmp_path: Path) -> None:
    kept(tmp_path, {NOON: 1.0, NOON + 2: 2.0, NOON + 6: 4.0}).close()
    found = History(tmp_path).between(UUID, NOON, NOON + 6, 0, NOON + 7)
    assert found["step"] == 2
    assert found["time"] == [int(NOON) + at for at in (0, 2, 4, 6)]
    assert found["cpu"] == [1.0, 2.0, None, 4.0]


def test_coarser_slots_hold_means_also_over_a_restart_of_the_agent(tmp_path: Path) -> None:
    kept(tmp_path, {NOON + at: float(at) for at in range(0, 30, 2)}).close()
    history = kept(tmp_path, {NOON + at: float(at) for at in range(30, 60, 2)})
    found = history.between(UUID, NOON, NOON + 59, 60, NOON + 60)
    assert (found["step"], found["cpu"]) == (60, [29.0])
    old = history.between(UUID, NOON, NOON + 900, 0, NOON + 30 * 86_400)
    assert (old["step"], old["cpu"][0]) == (900, 29.0)


def test_file_never_grows_and_is_for_its_owner_alone(tmp_path: Path) -> None:
    history = kept(tmp_path, {NOON: 1.0})
    file = tmp_path / f"{UUID}.usage"
    assert file.stat().st_size == FILE_SIZE < 500_000
    assert file.stat().st_mode & 0o777 == 0o600
    for at in range(0, 20_000, 50):
        history.add(NOON + at, {UUID: Usage(cpu=1.0)})
    assert file.stat().st_size == FILE_SIZE
    found = history.between(UUID, NOON, NOON + 20_000, 0, NOON + 20_000)
    assert len(found["time"]) <= POINTS_MAX


def test_torn_record_is_one_that_is_not_there(tmp_path: Path) -> None:
    kept(tmp_path, {NOON: 1.0, NOON + 2: 2.0}).close()
    file = tmp_path / f"{UUID}.usage"
    slot = ARCHIVES[0].offset + int(NOON) // 2 % ARCHIVES[0].slots
    with file.open("r+b") as opened:
        opened.seek(slot * SIZE + 20)
        opened.write(os.urandom(8))
    assert History(tmp_path).between(UUID, NOON, NOON + 2, 2, NOON + 3)["cpu"] == [None, 2.0]


@pytest.mark.parametrize("content", [b"", b"something else", bytes(FILE_SIZE), b"nano usage 1\n"])
def test_file_that_is_none_begins_anew(tmp_path: Path, content: bytes) -> None:
    (tmp_path / f"{UUID}.usage").write_bytes(content)
    history = kept(tmp_path, {NOON: 1.0})
    assert history.between(UUID, NOON, NOON + 1, 2, NOON + 1)["cpu"] == [1.0]


@given(st.binary(max_size=4096), st.integers(0, FILE_SIZE - 4096))
@settings(max_examples=50)
def test_damage_is_never_more_than_missing_figures(
    tmp_path_factory: pytest.TempPathFactory, damage: bytes, at: int
) -> None:
    folder = tmp_path_factory.mktemp("usage")
    kept(folder, {NOON: 1.0}).close()
    with (folder / f"{UUID}.usage").open("r+b") as file:
        file.seek(at)
        file.write(damage)
    assert History(folder).between(UUID, NOON, NOON + 1, 2, NOON + 1)["cpu"] in ([1.0], [None])


def test_forgotten_machine_has_no_file(tmp_path: Path) -> None:
    history = kept(tmp_path, {NOON: 1.0})
    history.forget(UUID)
    assert list(tmp_path.iterdir()) == []
    assert history.between(UUID, NOON, NOON + 1, 2, NOON + 1)["cpu"] == [None]
    history.forget(uuid(9))


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "x" * 36, f"{UUID}/.."])
def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(HypervisorError, match="not the uuid"):
        History(tmp_path).add(NOON, {name: Usage()})


def test_range_that_is_too_long_or_backwards_is_refused(tmp_path: Path) -> None:
    history = kept(tmp_path, {NOON: 1.0})
    with pytest.raises(Invalid, match="larger step"):
        history.between(UUID, NOON - 30 * 86_400, NOON, 900, NOON)
    with pytest.raises(Invalid, match="ends before"):
        history.between(UUID, NOON, NOON - 10, 0, NOON)
