"""The golden-file comparison itself: that it can fail, and says how."""

from pathlib import Path

import pytest

from tests.conftest import Golden


def test_a_rewritten_file_compares_equal(tmp_path: Path) -> None:
    Golden(tmp_path, rewrite=True)("xml/domain.xml", "<domain/>\n")
    Golden(tmp_path, rewrite=False)("xml/domain.xml", "<domain/>\n")


def test_a_missing_file_fails(tmp_path: Path) -> None:
    with pytest.raises(pytest.fail.Exception, match=r"new\.xml is not there.*scripts/golden"):
        Golden(tmp_path, rewrite=False)("new.xml", "<domain/>")


def test_a_difference_in_text_is_shown(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    with pytest.raises(pytest.fail.Exception, match=r"-two\n\+'two '"):
        Golden(tmp_path, rewrite=False)("a.txt", "one\ntwo \n")


def test_a_difference_in_bytes_is_shown_with_its_offset(tmp_path: Path) -> None:
    (tmp_path / "packet").write_bytes(bytes(32))
    with pytest.raises(pytest.fail.Exception, match=r"\+0010  00 .* 01"):
        Golden(tmp_path, rewrite=False)("packet", bytes(31) + b"\x01")
