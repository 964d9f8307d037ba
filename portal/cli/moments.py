"""Moments of the past as people write them, `4711`, `2h` or `2026-11-22T06:00`, in the form that the server reads."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import click

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_AGO = re.compile(r"(\d{1,9})([smhd])")


class Moment(click.ParamType[str]):
    """A revision, an age such as `10m`, `2h` or `3d`, or a time; one without a zone is where the reader is."""

    name = "moment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """A revision, or a time in UTC."""
        text = str(value)
        if not text or text.isdigit():
            return text
        try:
            if ago := _AGO.fullmatch(text):
                return _stamp(datetime.now(UTC) - timedelta(seconds=int(ago[1]) * UNITS[ago[2]]))
            return _stamp(datetime.fromisoformat(text).astimezone(UTC))
        except (ValueError, OverflowError):
            self.fail(f"{text!r} is no revision, no age such as 2h, and no time such as 2026-11-22T06:00", param, ctx)


def _stamp(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


at_option = click.option(
    "--at", type=Moment(), default="", metavar="REV|TIME", help="As it was: at a revision, a time, or 2h ago."
)


def local(stamp: str) -> str:
    """`2026-11-22 17:05:09`, where the reader is."""
    return datetime.fromisoformat(stamp).astimezone().strftime("%Y-%m-%d %H:%M:%S") if stamp else "-"
