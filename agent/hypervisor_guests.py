"""Words to guest agents through libvirt: each function has a connection, in a thread of Hypervisor's."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

import libvirt
import libvirt_qemu

from nanovirt.agent.machine import GuestRefused
from nanovirt.resources.errors import HypervisorError

REFUSED: Final = {libvirt.VIR_ERR_INTERNAL_ERROR, getattr(libvirt, "VIR_ERR_AGENT_COMMAND_FAILED", -1)}
"""What libvirt says when an agent answers that it will not, or does not know the command."""
QUOTED: Final = re.compile(r"^.* agent command '[^']*': ")
"""What libvirt says before it quotes an agent."""
AGENT_SECONDS: Final = 8
"""How long an order to a guest agent may take: less than a call, so that the connection is kept."""


def through_agent(connection: Any, uuid: str) -> Any:
    domain = connection.lookupByUUIDString(uuid)
    domain.agentSetResponseTimeout(AGENT_SECONDS, 0)
    return domain


@contextlib.contextmanager
def obeyed() -> Iterator[None]:
    """What an agent refuses becomes GuestRefused."""
    try:
        yield
    except HypervisorError as error:
        if error.code in REFUSED:
            raise GuestRefused(QUOTED.sub("", str(error)), error.code) from error
        raise


def asked(connection: Any, uuid: str, commands: Sequence[str], seconds: int) -> dict[str, str | None]:
    """All within `seconds`. What the agent said is given as it came; libvirt has seen that it is JSON."""
    domain = connection.lookupByUUIDString(uuid)
    replies: dict[str, str | None] = dict.fromkeys(commands)
    until = time.monotonic() + seconds
    for number, command in enumerate(commands):
        left = int(until - time.monotonic())
        if left < 1:
            break
        words = command if command.startswith("{") else f'{{"execute": "{command}"}}'
        try:
            replies[command] = libvirt_qemu.qemuAgentCommand(domain, words, left, 0)
        except (SystemError, UnicodeError) as error:  # bytes that are no text; the binding has no better word for it
            if not number:
                raise HypervisorError("the guest agent's words are no text") from error
            break
        except libvirt.libvirtError as error:
            if error.get_error_code() not in REFUSED:
                if not number:
                    raise
                break
    return replies
