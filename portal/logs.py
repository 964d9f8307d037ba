"""How log lines look: time, level, a constant message, and its keys as `key=value`."""

from __future__ import annotations

import logging
import sys

PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class Lines(logging.Formatter):
    """One line a record; what `extra` gave is appended, quoted where it holds a space."""

    def format(self, record: logging.LogRecord) -> str:
        keys = {name: value for name, value in vars(record).items() if name not in PLAIN}
        said = "".join(f" {name}={_value(value)}" for name, value in keys.items())
        at = self.formatTime(record, "%Y-%m-%dT%H:%M:%S")
        where = record.name.removeprefix("nanovirt.")
        line = f"{at}.{record.msecs:03.0f} {record.levelname} {where}: {record.getMessage()}{said}"
        return line + ("\n" + self.formatException(record.exc_info) if record.exc_info else "")


def _value(value: object) -> str:
    text = str(value)
    return repr(text) if not text or any(character in text for character in ' "\n\r\t=\x1b') else text


def set_up(*, verbose: bool) -> None:
    """Send log lines to standard error, from level INFO on, or DEBUG."""
    lines = logging.StreamHandler(sys.stderr)
    lines.setFormatter(Lines())
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, handlers=[lines], force=True)
    logging.getLogger("nanovirt.controllers.runtime").setLevel(logging.DEBUG if verbose else logging.WARNING)
    logging.getLogger("watchfiles").setLevel(logging.WARNING)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
