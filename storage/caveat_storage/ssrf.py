"""Protection against server-side request forgery: webhooks reach public addresses, and others only if allowed."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

NAT64 = ip_network("64:ff9b::/96")
NOT_PUBLIC = [ip_network(one) for one in ("168.63.129.16/32", "192.0.0.0/24", "64:ff9b:1::/48", "fec0::/10", "::/96")]
"""Networks that some Python versions take for public: cloud metadata of Azure and Oracle, local NAT64 prefixes, and two
that the IETF has withdrawn: site-local addresses and IPv4-compatible ones (`::a.b.c.d`)."""


def networks(text: str) -> list[Network]:
    """Parses a list of networks such as `10.0.0.0/8, fd00::/8`.

    Raises:
        ValueError: the list is malformed.
    """
    return [ip_network(part.strip()) for part in text.split(",") if part.strip()]


def _checked(text: str) -> str:
    networks(text)
    return text


Networks = Annotated[str, AfterValidator(_checked)]
"""A setting with a list of networks."""


def may_reach(address: str, allowed: list[Network], *, encrypted: bool) -> bool:
    """Whether an address may be reached: public ones only with TLS, others only if allowed."""
    reached = _meant(ip_address(address))
    return any(reached in network for network in allowed) or (encrypted and _is_public(reached))


def _is_public(address: Address) -> bool:
    return address.is_global and not address.is_multicast and not any(address in one for one in NOT_PUBLIC)


def _meant(address: Address) -> Address:
    """The IPv4 address embedded in an IPv6 address, or the address itself."""
    if isinstance(address, IPv4Address):
        return address
    if address in NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1] or address


def is_address(host: str) -> bool:
    """Whether a host is an IP address and not a name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def fault(url: str, allowed: list[Network]) -> str | None:
    """What is wrong with a webhook URL, as far as can be said without DNS; None if nothing is."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as wrong:
        return f"This is not a URL: {wrong}."
    if port == 0:
        return "The port is not valid: a port is a number from 1 to 65535."
    encrypted = parts.scheme == "https"
    if not encrypted and not allowed:
        return "Messages are sent only with https."
    host = parts.hostname or ""
    try:
        reachable = may_reach(host, allowed, encrypted=encrypted)
    except ValueError:
        return None  # a host name, whose addresses are checked when a message is sent
    return None if reachable else f"Messages cannot be sent to {host}: it is not public, or the URL is not https."
