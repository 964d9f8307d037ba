"""What a mini guest says on port 80, asked from a node of the bed."""

import json
import sys
import time
from typing import NamedTuple

from tests.testbed.nodes import Node

ASK = """
import sys, urllib.request
ip, timeout = sys.argv[1:]
print(urllib.request.urlopen(f"http://{ip}/", timeout=float(timeout)).read().decode())
"""


class Answer(NamedTuple):
    """The boot id tells whether the guest was started again; `uptime` is in seconds."""

    boot_id: str
    hostname: str
    uptime: float


def answer(node: Node, ip: str, *, timeout: float = 2) -> Answer | None:
    """The guest's answer, or None if there is none within `timeout` seconds."""
    done = node.run([sys.executable, "-c", ASK, ip, str(timeout)], check=False)
    return Answer(**json.loads(done.stdout)) if done.returncode == 0 else None


def wait_for_answer(node: Node, ip: str, *, seconds: float = 180) -> Answer:
    """The first answer. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if (got := answer(node, ip)) is not None:
            return got
        time.sleep(0.2)
    raise TimeoutError(f"the guest at {ip} did not answer within {seconds} s")
