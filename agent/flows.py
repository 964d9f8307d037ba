"""Connections that were there before the rules of a card changed, and whether they may go on."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address

from nanovirt.resources.placement import PlacedRule
from nanovirt.resources.security_group import span


@dataclass(frozen=True, slots=True)
class Flow:
    """A connection as a set holds it; `opened` by the guest (Outbound) or by the other side (Inbound)."""

    opened: str
    ip: IPv4Address
    remote: IPv4Address
    protocol: str
    port: int
    remote_port: int

    @property
    def element(self) -> str:
        """As nft writes it."""
        return f"{self.ip} . {self.remote} . {self.protocol} . {self.port} . {self.remote_port}"


def allowed(rules: tuple[PlacedRule, ...], flow: Flow) -> bool:
    """Whether the rules would let this connection be opened now."""
    port = flow.remote_port if flow.opened == "Outbound" else flow.port
    for rule in rules:
        if (
            rule.direction == flow.opened
            and rule.protocol in ("Any", flow.protocol.upper())
            and (not rule.ports or any(first <= port <= last for first, last in map(span, rule.ports)))
            and (not rule.remotes or any(flow.remote in one for one in rule.remotes))
        ):
            return rule.action == "Accept"
    return True
