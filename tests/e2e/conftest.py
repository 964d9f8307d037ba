"""What the end-to-end tests stand on: the mini guest image and hosts with real libvirt and QEMU."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.testbed import Bed, leftovers

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def mini_guest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mini guest image (qcow2), to be used as a backing file and never written to."""
    image = tmp_path_factory.mktemp("image") / "mini.qcow2"
    done = subprocess.run([ROOT / "scripts/mini-guest", "--output", image], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return image


@pytest.fixture
def two_hosts() -> Iterator[Bed]:
    """A bed with two hosts; that nothing is left of it is part of every test that uses it."""
    with Bed(hosts=2) as bed:
        yield bed
    assert leftovers() == []
