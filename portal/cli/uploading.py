"""`nanoctl upload`: the bytes of an image, in pieces, going on where an earlier attempt ended."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import click

from nanovirt.portal.cli import Misused, examples
from nanovirt.portal.cli.catalogue import Target
from nanovirt.portal.cli.session import Session, connected
from nanovirt.portal.cli.waiting import Seconds, until
from nanovirt.resources import wire
from nanovirt.resources.errors import Rejected

JSON = dict[str, Any]
PIECE = 8 << 20
"""Bytes sent at once."""


@click.command(
    epilog=examples("""
        upload image/debian-12 debian-12.qcow2 -n shared
    """)
)
@click.argument("what", metavar="image/NAME")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--timeout", type=Seconds(), default=600, metavar="TIME", help="For its inspection.  [default: 10m]")
@connected
def upload(session: Session, *, what: str, file: Path, timeout: float) -> None:
    """Send the bytes of an image, and wait until it is ready.

    The Image is made before, with `source: {upload: {}}`. What breaks off goes on where it was when it is repeated.
    """
    (target,) = session.targets((what if "/" in what else f"image/{what}",))
    if target.kind.kind != "Image":
        raise Misused(f"only images are uploaded, not {target.kind.plural}")
    session.get(target)
    total = file.stat().st_size
    if not total:
        raise Rejected(f"{file} is empty")
    # Standard error, since the result belongs on standard output; a pipe has no use for a bar.
    shown = click.progressbar(length=total, label=str(target), file=sys.stderr, hidden=not sys.stderr.isatty())
    with file.open("rb") as opened, shown as bar:
        digest = _send(session, target, opened, total, bar.update)
    click.echo(f"{target} uploaded ({total} bytes, sha256 {digest})")
    until(session, [target], _ready, "Ready", timeout, say=lambda one: click.echo(f"{one} is Ready"), hopeless=_failed)


def _ready(doc: JSON | None) -> bool:
    return _phase(doc) == "Ready"


def _failed(doc: JSON | None) -> bool:
    return _phase(doc) == "Failed"


def _phase(doc: JSON | None) -> str:
    return str(((doc or {}).get("status") or {}).get("phase", ""))


def _send(session: Session, target: Target, file: BinaryIO, total: int, advance: Callable[[int], None]) -> str:
    path = target.kind.path(session.namespace, target.name, "upload")
    headers, _ = session.connection.raw("HEAD", path)
    offset, length = (int(headers.get(name) or 0) for name in ("Upload-Offset", "Upload-Length"))
    if length and offset == length:
        raise Rejected(f"{target} has all its bytes already; make another Image for others")
    if length != total:
        offset = 0  # what has begun there is another file
    digest = hashlib.sha256()
    for start, piece in _pieces(file):
        digest.update(piece)
        end = start + len(piece)
        if end > offset:
            rest = piece[max(0, offset - start) :]
            whole = digest.hexdigest() if end == total else ""
            asked = wire.query(offset=str(max(start, offset)), total=total, sha256=whole)
            session.connection.send(path + asked, rest, {})
        advance(len(piece))
    return digest.hexdigest()


def _pieces(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    start = 0
    while piece := file.read(PIECE):
        yield start, piece
        start += len(piece)
