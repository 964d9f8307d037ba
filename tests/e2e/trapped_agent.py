"""`nanoctl` with a trap: `trapped_agent.py FOLDER ARGUMENTS...` kills whom FOLDER/trap names after the step it names.

The trap is one JSON object: `step` is the step's name (agent/steps.py), `machine` the domain's, `nth` which time it is
done, and `victim` a process number, this one's or another's. It works once. As it goes off in the very call that says
"step done", the agent has done that step and nothing after it when the victim is dead.
"""

import json
import logging
import os
import signal
import sys
from pathlib import Path

from nanovirt.portal.__main__ import main

TRAP = "trap"
SPRUNG = "sprung"


class Trap(logging.Filter):
    """Sees each line of the worker before it is written."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._set, self._sprung = folder / TRAP, folder / SPRUNG

    def filter(self, record: logging.LogRecord) -> bool:
        """Lets every line through."""
        if record.msg == "step done" and self._set.exists():
            self._stepped(vars(record)["machine"], vars(record)["step"])
        return True

    def _stepped(self, machine: str, step: str) -> None:
        trap = json.loads(self._set.read_text())
        if (machine, step) != (trap["machine"], trap["step"]):
            return
        if trap["nth"] > 1:
            self._set.write_text(json.dumps({**trap, "nth": trap["nth"] - 1}))
            return
        self._set.rename(self._sprung)
        os.kill(trap["victim"], signal.SIGKILL)


if __name__ == "__main__":
    logging.getLogger("nanovirt.agent.worker").addFilter(Trap(Path(sys.argv.pop(1))))
    main()
