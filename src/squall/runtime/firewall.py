"""The packet filter of an instance: its containers reach the outside by NAT, and neither this machine, nor each other, nor metadata of clouds,
nor the private network around this machine but for what its owner has opened.

Everything is in one nftables table of the instance, replaced and removed as a whole. A drop in any other table still counts (nftables has no way round
that), so where the `ip filter` FORWARD chain exists (Docker, ufw), two rules with the instance's name as comment are put at its top.
"""

import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, collapse_addresses

from squall.runtime.files import find_program
from squall.runtime.resolver import Resolvers


class FirewallError(Exception):
    """`nft` refused, with what it said."""


#: Where clouds answer their machines, and give whoever asks credentials and secrets: link-local addresses of nearly all, and Alibaba's, Azure's and Oracle's.
#: The one of AWS in IPv6 (fd00:ec2::254) needs no rule, since nothing of IPv6 is let through.
METADATA = ("169.254.0.0/16", "100.100.100.200", "168.63.129.16", "192.0.0.192")

#: Networks that are not the internet: RFC 1918, carriers' (RFC 6598), of benchmarks (RFC 2544).
PRIVATE = tuple(map(IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "198.18.0.0/15")))


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What of the machine's own networks containers reach.

    Attributes:
        attached: networks that this machine is part of; refused, as the private ones are.
        opened: parts of both that its owner has opened.
        services: address and TCP port of services in both that the machine's settings name.
        trusted: addresses of programs whose limits the owner has chosen, so that they reach the private networks among these.
    """

    attached: tuple[IPv4Network, ...] = ()
    opened: tuple[IPv4Network, ...] = ()
    services: tuple[tuple[IPv4Address, int], ...] = ()
    trusted: tuple[IPv4Address, ...] = ()


NOTHING = Surroundings()

#: Addresses of containers that may not reach everything outside -> what they may reach.
Limited = Mapping[IPv4Address, Sequence[IPv4Network]]


def apply(name: str, bridge: str, subnet: IPv4Network, resolvers: Resolvers, limited: Limited, around: Surroundings = NOTHING, door: int | None = None) -> None:
    """Put the table `name` in force, in one transaction. Idempotent.

    Raises:
        FirewallError
    """
    _nft(ruleset(name, bridge, subnet, resolvers, limited, around, door))
    if not _forward_rules(name) and _forward_chain():
        _in_others(
            f'insert rule ip filter FORWARD oifname "{bridge}" ct state established,related accept comment "{name}"\n'
            f'insert rule ip filter FORWARD iifname "{bridge}" accept comment "{name}"\n'
        )


def limit(name: str, address: IPv4Address, networks: Sequence[IPv4Network], *, trusted: bool = False) -> None:
    """Let the container at `address` reach these networks only; private ones among them if they are `trusted`. Raises FirewallError."""
    _nft(_elements(name, {address: networks}) + (f"add element inet {name} trusted {{ {address} }}\n" if trusted else ""))


def unlimit(name: str, address: IPv4Address, networks: Sequence[IPv4Network]) -> None:
    """Undo that. Raises FirewallError."""
    # Adding it first makes sure that there is one to delete.
    _nft(
        f"add element inet {name} trusted {{ {address} }}\ndelete element inet {name} trusted {{ {address} }}\n"
        + _elements(name, {address: networks}, "delete")
    )


def remove(name: str) -> None:
    """Take it all away again. Idempotent."""
    for handle in _forward_rules(name):
        _in_others(f"delete rule ip filter FORWARD handle {handle}\n")
    _nft(f"table inet {name} {{}}\ndelete table inet {name}\n")


def ruleset(
    name: str, bridge: str, subnet: IPv4Network, resolvers: Resolvers, limited: Limited, around: Surroundings = NOTHING, door: int | None = None
) -> str:
    """The table as nft(8) reads it. A container with limits may ask the resolvers besides, as names have to become addresses;
    a resolver may be at an address that is refused otherwise, as in clouds.

    `door`: the one TCP port of this machine, at its address on the bridge, that containers without limits reach.

    Refused packets are answered, so that a program in a container fails at once and does not wait. TCP gets a reset, which the kernel does not ration as it
    does ICMP (net.ipv4.icmp_ratelimit).
    """
    dns = "".join(f"    ip daddr {address} meta l4proto {{ tcp, udp }} th dport 53 accept\n" for address in resolvers.on_host)
    forward_dns = ""
    if door is not None:
        dns += f"    ip saddr {subnet} ip saddr != @limited ip daddr {next(subnet.hosts())} tcp dport {door} accept\n"
    asked = "".join(f'    iifname "{bridge}" ip daddr {address} meta l4proto {{ tcp, udp }} th dport 53 accept\n' for address in resolvers.servers)
    if resolvers.forwarded is not None:
        dns += f"    ip daddr {resolvers.forwarded} meta l4proto {{ tcp, udp }} th dport 53 ct status dnat accept\n"
        forward_dns = f"""
  chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    iifname "{bridge}" ip daddr {next(subnet.hosts())} meta l4proto {{ tcp, udp }} th dport 53 dnat ip to {resolvers.forwarded}
  }}"""
    trusted = "".join(f"add element inet {name} trusted {{ {address} }}\n" for address in around.trusted)
    sets = _set("metadata", "ipv4_addr", METADATA)
    sets += _set("private", "ipv4_addr", [str(network) for network in collapse_addresses([*PRIVATE, *around.attached])])
    sets += _set("opened", "ipv4_addr", [str(network) for network in collapse_addresses(around.opened)])
    sets += _set("services", "ipv4_addr . inet_service", [f"{address} . {port}" for address, port in sorted(set(around.services))])
    return f"""table inet {name} {{}}
delete table inet {name}
table inet {name} {{
  set limited {{
    type ipv4_addr
  }}
  set trusted {{
    type ipv4_addr
  }}
  set allowed {{
    type ipv4_addr . ipv4_addr
    flags interval
  }}
{sets}  chain input {{
    type filter hook input priority filter - 5; policy accept;
    iifname "{bridge}" jump from_container
  }}
  chain from_container {{
    ct state established,related accept
{dns}    jump refuse
  }}
  chain refuse {{
    meta l4proto tcp reject with tcp reset
    reject with icmpx admin-prohibited
  }}
  chain forward {{
    type filter hook forward priority filter - 5; policy accept;
    iifname "{bridge}" oifname "{bridge}" jump refuse
    iifname "{bridge}" meta nfproto ipv6 drop
    iifname "{bridge}" ip saddr != {subnet} drop
{asked}    iifname "{bridge}" ip daddr @metadata jump refuse
    iifname "{bridge}" ip saddr != @trusted ip daddr @private jump private
    iifname "{bridge}" ip saddr @limited jump limited
    iifname "{bridge}" accept
    oifname "{bridge}" ct state established,related accept
    oifname "{bridge}" drop
  }}
  chain private {{
    ip daddr @opened return
    ip daddr . tcp dport @services return
    jump refuse
  }}
  chain limited {{
    # Flows that are open already are looked at too: they may be older than the limit.
    ip saddr . ip daddr @allowed accept
    jump refuse
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {subnet} oifname != "{bridge}" masquerade
  }}{forward_dns}
}}
{_elements(name, limited)}{trusted}"""


def _set(name: str, kind: str, elements: Sequence[str]) -> str:
    held = f"    elements = {{ {', '.join(elements)} }}\n" if elements else ""
    return f"  set {name} {{\n    type {kind}\n    flags interval\n{held}  }}\n"


def _elements(name: str, limited: Limited, what: str = "add") -> str:
    """Commands that put containers into the sets, or take them out."""
    lines = []
    for address, networks in limited.items():
        lines.append(f"{what} element inet {name} limited {{ {address} }}\n")
        if merged := list(collapse_addresses(networks)):  # a set takes no intervals that overlap
            lines.append(f"{what} element inet {name} allowed {{ {', '.join(f'{address} . {network}' for network in merged)} }}\n")
    return "".join(lines)


def _forward_chain() -> str | None:
    shown = subprocess.run([_program(), "-a", "list", "chain", "ip", "filter", "FORWARD"], capture_output=True, text=True)
    return shown.stdout if shown.returncode == 0 else None


def _in_others(commands: str) -> None:
    """Change the chain that is not ours. Its owner may take it away at any moment, and then nothing has to be changed."""
    try:
        _nft(commands)
    except FirewallError:
        if _forward_chain() is not None:
            raise


def _forward_rules(name: str) -> list[str]:
    return re.findall(rf'comment "{re.escape(name)}" # handle (\d+)', _forward_chain() or "")


def _program() -> str:
    path = find_program("nft")
    if path is None:
        raise FirewallError("nft is not installed; install it with: apt install nftables")
    return path


def _nft(commands: str) -> None:
    done = subprocess.run([_program(), "-f", "-"], input=commands, capture_output=True, text=True)
    if done.returncode:
        raise FirewallError(f"nft: {done.stderr.strip()}")
