"""What the kernel tells about a host, and when KVM counts as usable."""

import os
from pathlib import Path

import pytest

from nanovirt.agent import facts
from nanovirt.resources.quantities import Bytes
from nanovirt.resources.report import StorageFact

PLAIN = "processor\t: 0\nmodel name\t: Some CPU with vmx in its name\nflags\t\t: fpu sse sse2 avx\n"


@pytest.mark.parametrize(
    ("cpuinfo", "usable"),
    [
        (PLAIN, False),
        (PLAIN.replace("avx", "vmx"), True),
        (PLAIN.replace("avx", "svm"), True),
        (PLAIN.replace("avx", "vmx_like"), False),
        ("", False),
    ],
)
def test_kvm_is_believed_only_when_the_processor_says_so(tmp_path: Path, cpuinfo: str, usable: bool) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(cpuinfo)
    assert facts.kvm_usable(file, Path("/dev/null")) is usable  # a device that is there and says nothing
    assert not facts.kvm_usable(file, tmp_path / "kvm")
    assert not facts.kvm_usable(file, file), "a plain file is no device"


def test_bridges_are_those_network_devices_that_are_one(tmp_path: Path) -> None:
    for name in ("br1", "br0", "eth0"):
        (tmp_path / name).mkdir()
    for name in ("br1", "br0"):
        (tmp_path / name / "bridge").mkdir()
    assert facts.bridges(tmp_path) == ("br0", "br1")


def test_bridges_of_vlans_that_nano_made_are_not_the_hosts(tmp_path: Path) -> None:
    for name, alias in (("br0", ""), ("br0.40", "nano:br0:40\n"), ("br0.50", "made by hand\n")):
        (tmp_path / name / "bridge").mkdir(parents=True)
        (tmp_path / name / "ifalias").write_text(alias)
    assert facts.bridges(tmp_path) == ("br0", "br0.50")
    assert facts.segment("br0.40", tmp_path) == ("br0", 40)
    assert [facts.segment(name, tmp_path) for name in ("br0", "br0.50", "missing", "../br0.40", "")] == [None] * 5


def test_memory_is_bytes() -> None:
    assert facts.memory_total("MemTotal:       24607508 kB\nMemFree:  1 kB\n") == 24607508 * 1024


def test_missing_storage_path_is_made_and_closed_to_the_curious(tmp_path: Path) -> None:
    path = tmp_path / "volumes"
    (found,) = facts.storage([str(path)])
    assert found.error == ""
    assert 0 < found.free <= found.total
    assert path.stat().st_mode & 0o777 == 0o711


def test_storage_path_below_what_is_missing_is_not_made(tmp_path: Path) -> None:
    (found,) = facts.storage([str(tmp_path / "disk" / "volumes")])
    assert "mount" in found.error
    assert not (tmp_path / "disk").exists()


def test_file_in_the_place_of_a_storage_path_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "volumes").touch()
    assert facts.storage([str(tmp_path / "volumes")])[0].error


def test_paths_on_one_disk_count_once(tmp_path: Path) -> None:
    one = facts.storage([str(tmp_path / "a"), str(tmp_path / "b")])
    assert facts.capacity(one).disk == one[0].total
    assert facts.capacity(one).cpus == os.cpu_count()


def test_unusable_path_counts_for_nothing() -> None:
    assert facts.capacity([StorageFact(path="/nowhere", total=Bytes("1Gi"), error="gone")]).disk == 0
