"""The host's filter that leaves DHCP between a guest and its own host, fed to nft in one call."""

from __future__ import annotations

import asyncio
import hashlib
import json
from asyncio.subprocess import DEVNULL, PIPE
from typing import Any, Final

from nanovirt.agent.dhcp.link import MARK
from nanovirt.resources.errors import HypervisorError

LEASED: Final = "nvl"
"""Taps of cards with an address from a pool begin so: they speak DHCP with Nano's server only."""

PHYSICAL: Final = "nvx"
"""Taps of all other cards begin so; the rules leave them alone."""

_SECONDS: Final = 10.0
_REMOVE: Final = "add table bridge nano\ndelete table bridge nano\n"
_RULES: Final = (
    # By destination, since a server may answer from any port: 67 is where servers listen, 68 where clients do.
    f'add rule bridge nano forward iifname "{LEASED}*" udp dport 67-68 counter drop',
    f'add rule bridge nano forward oifname "{LEASED}*" udp dport 67-68 counter drop',
    # Another server of this same machine passes here, not through the forward hook; our own answers carry the mark.
    f'add rule bridge nano output oifname "{LEASED}*" udp dport 68 meta mark != {MARK:#x} counter drop',
)


def ruleset() -> str:
    """Give the whole table as nft commands; fed in one call they replace it at once, without a moment of no rules."""
    chains = (
        "add table bridge nano",
        "add chain bridge nano forward { type filter hook forward priority -200; policy accept; }",
        "add chain bridge nano output { type filter hook output priority -200; policy accept; }",
        f"add chain bridge nano {version()}",
    )
    return _REMOVE + "\n".join((*chains, *_RULES)) + "\n"


def version() -> str:
    """Name the empty chain by which a table of these very rules is known again."""
    return "rules_" + hashlib.sha256("\n".join(_RULES).encode()).hexdigest()[:12]


async def install() -> None:
    """Put the table there, whatever stood in its place. Raises HypervisorError if nft is missing or refuses."""
    status, _, complaint = await _nft("-f", "-", feed=ruleset())
    if status:
        raise HypervisorError(f"nft refused the DHCP filter: {complaint}; does the kernel have nf_tables for bridges?")


async def installed() -> bool:
    """Whether exactly these rules stand. Raises HypervisorError if nft is missing or does not answer."""
    status, listing, _ = await _nft("-j", "list", "table", "bridge", "nano")
    return status == 0 and complete(listing)


def complete(listing: str) -> bool:
    """Whether nft's JSON listing of the table shows our version of the rules, all of them."""
    entries: list[dict[str, Any]] = json.loads(listing)["nftables"]
    chains = {entry["chain"]["name"] for entry in entries if "chain" in entry}
    return version() in chains and sum("rule" in entry for entry in entries) == len(_RULES)


async def remove() -> None:
    """Take the table away; nothing happens if there is none. Raises HypervisorError if nft is missing or refuses."""
    status, _, complaint = await _nft("-f", "-", feed=_REMOVE)
    if status:
        raise HypervisorError(f"nft refused to remove the DHCP filter: {complaint}")


async def _nft(*arguments: str, feed: str = "") -> tuple[int, str, str]:
    """Run nft: exit status, output, complaint. An nft that hangs is ended."""
    try:
        running = await asyncio.create_subprocess_exec(
            "nft", *arguments, stdin=PIPE if feed else DEVNULL, stdout=PIPE, stderr=PIPE
        )
    except OSError as error:
        raise HypervisorError(f"nft cannot be run: {error.strerror}; install the package nftables") from error
    try:
        async with asyncio.timeout(_SECONDS):
            output, complaint = await running.communicate(feed.encode() if feed else None)
    except TimeoutError as error:
        raise HypervisorError(f"nft did not answer within {_SECONDS:g} s") from error
    finally:
        if running.returncode is None:
            running.kill()
            await running.wait()
    return running.returncode or 0, output.decode(), complaint.decode().strip()
