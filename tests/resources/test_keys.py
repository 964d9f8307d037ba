"""The keys of a cluster, apart from every backup."""

from __future__ import annotations

import tarfile
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nanovirt.portal.pki import Pki
from nanovirt.resources.errors import Rejected
from nanovirt.resources.keys import keys_of, put_keys, read_keys, save_keys


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The keys of a server, and other files."""
    pki = Pki(tmp_path / "nano", datetime.now(UTC))
    pki.tls_context()
    pki.admin_access("https://127.0.0.1:5870")
    (tmp_path / "nano" / "secrets.key").write_bytes(b"k" * 32)
    (tmp_path / "nano" / "pki" / "note.txt").write_text("mine")
    return tmp_path / "nano"


def test_keys_come_back_as_they_were(folder: Path, tmp_path: Path) -> None:
    save_keys(keys_of(folder), tmp_path / "keys.tar")
    assert (tmp_path / "keys.tar").stat().st_mode & 0o777 == 0o600
    found = read_keys(tmp_path / "keys.tar")
    assert found.keys() == {
        "secrets.key", "pki/ca.key", "pki/ca.crt", "pki/server.pem", "pki/admin.pem", "pki/admin.sha256",
    }  # fmt: skip
    for _ in range(2):
        put_keys(found, tmp_path / "new")
    assert keys_of(tmp_path / "new") == found
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "new").rglob("*") if path.is_file()}
    assert (modes["ca.key"], modes["secrets.key"], modes["ca.crt"]) == (0o400, 0o400, 0o600)
    assert not [name for name in modes if "new" in name]
    assert Pki(tmp_path / "new", datetime.now(UTC)).ca_pem == Pki(folder, datetime.now(UTC)).ca_pem


def test_other_keys_are_never_replaced(folder: Path, tmp_path: Path) -> None:
    save_keys(keys_of(folder), tmp_path / "keys.tar")
    (tmp_path / "new" / "pki").mkdir(parents=True)
    (tmp_path / "new" / "pki" / "ca.key").write_bytes(b"another")
    with pytest.raises(Rejected, match="another one"):
        put_keys(read_keys(tmp_path / "keys.tar"), tmp_path / "new")
    assert [path.name for path in (tmp_path / "new").rglob("*")] == ["pki", "ca.key"]
    with pytest.raises(Rejected, match="already"):
        save_keys(keys_of(folder), tmp_path / "keys.tar")


def test_file_that_holds_something_else_is_refused(folder: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "bad.tar", "w") as made:
        made.add(folder / "pki" / "note.txt", "pki/../../note.txt")
    with pytest.raises(Rejected):
        read_keys(tmp_path / "bad.tar")
