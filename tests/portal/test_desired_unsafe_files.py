"""Files and folders of desired objects that others could have written do not count."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest

from nanovirt.portal.desired import looking
from tests.portal.desired_world import machine, several, text, web, world


async def test_links_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "web.yaml").write_text(text(machine("web-1")))
    async with world(tmp_path) as here:
        (here.folder / "file.yaml").symlink_to(outside / "web.yaml")
        (here.folder / "folder").symlink_to(outside)
        await here.see()
        assert not here.names
        assert here.reasons("file.yaml") == here.reasons("folder") == ["FileUnsafe"]
        shutil.rmtree(here.folder)
        here.folder.symlink_to(outside)
        await here.see()
        assert here.reasons()[0] == "DirectoryUnsafe"
        assert not here.names


def test_a_link_that_takes_a_place_while_it_is_looked_at_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "web.yaml").write_text(several(1))
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "web.yaml").symlink_to(tmp_path / "outside" / "web.yaml")
    (tmp_path / "inside" / "folder").symlink_to(tmp_path / "outside")
    inside = os.open(tmp_path / "inside", looking.FOLDER)
    try:
        sight = looking._read(inside, "web.yaml")
        assert sight is not None
        assert (sight.content, sight.why) == (b"", "symbolic links are not followed")
        assert [(path, bool(one.why)) for path, one in looking._below(inside, "folder", "folder", 0)] == [
            ("folder", True)
        ]
    finally:
        os.close(inside)


async def test_a_pipe_holds_nothing_up(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        os.mkfifo(here.folder / "web.yaml", 0o600)
        here.put("good.yaml", machine("web-1"))
        async with asyncio.timeout(10):
            await here.see()
        assert here.reasons("web.yaml") == ["FileUnsafe"]
        assert here.names == {"web-1"}


async def test_what_others_can_write_does_not_count(tmp_path: Path) -> None:
    async with world(tmp_path, prune=True) as here:
        here.put("a.yaml", machine("web-1")).chmod(0o664)
        here.put("b/b.yaml", machine("web-2"))
        (here.folder / "b").chmod(0o777)
        await here.see()
        assert not here.names
        assert "chmod go-w" in here.message("a.yaml")
        assert here.reasons("b") == ["FileUnsafe"]
        (here.folder / "a.yaml").chmod(0o644)
        (here.folder / "b").chmod(0o755)
        await here.see()
        assert here.names == {"web-1", "web-2"}
        here.folder.chmod(0o775)
        (here.folder / "a.yaml").unlink()
        await here.see()
        assert here.reasons()[0] == "DirectoryUnsafe"
        assert not here.store.get(web("web-1")).deleting


@pytest.mark.parametrize(
    ("uid", "mode", "said"), [(0, 0o100644, ""), (12345, 0o100600, "uid 12345"), (0, 0o100602, "602")]
)
def test_what_belongs_to_others_does_not_count(uid: int, mode: int, said: str) -> None:
    why = looking._unsafe(os.stat_result((mode, 1, 1, 1, uid, 0, 0, 0, 0, 0)))
    assert bool(why) == bool(said)
    assert said in why
