"""Which addresses a webhook may be sent to: the public internet, and what an operator allows beside it."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

NAT64 = ip_network("64:ff9b::/96")
NOT_PUBLIC = [ip_network(one) for one in ("168.63.129.16/32", "192.0.0.0/24", "64:ff9b:1::/48")]
"""What Python takes for public: metadata of Azure, of Oracle's cloud (in older Pythons), a NAT64 of one's own."""


def networks(text: str) -> list[Network]:
    """The networks of a list such as `10.0.0.0/8, fd00::/8`.

    Raises:
        ValueError: it is no such list.
    """
    return [ip_network(part.strip()) for part in text.split(",") if part.strip()]


def _checked(text: str) -> str:
    networks(text)
    return text


Networks = Annotated[str, AfterValidator(_checked)]
"""A setting that lists networks."""


def may_reach(address: str, allowed: list[Network], *, encrypted: bool) -> bool:
    """Whether something may be sent to an address: to a public one only with TLS, to others only where allowed."""
    reached = _meant(ip_address(address))
    return any(reached in network for network in allowed) or (encrypted and _is_public(reached))


def _is_public(address: Address) -> bool:
    return address.is_global and not address.is_multicast and not any(address in one for one in NOT_PUBLIC)


def _meant(address: Address) -> Address:
    """The IPv4 address that is meant by an IPv6 address which carries one."""
    if isinstance(address, IPv4Address):
        return address
    if address in NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1] or address


def is_address(host: str) -> bool:
    """Whether a host is named by its address."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def fault(url: str, allowed: list[Network]) -> str | None:
    """What is wrong with a URL, as far as that can be said without asking a name server; None if nothing is."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as wrong:
        return f"It is no URL: {wrong}."
    if port == 0:
        return "Its port is none: a port is a number from 1 to 65535."
    encrypted = parts.scheme == "https"
    if not encrypted and not allowed:
        return "Messages are sent with https only."
    host = parts.hostname or ""
    try:
        reachable = may_reach(host, allowed, encrypted=encrypted)
    except ValueError:
        return None  # a name, and what it stands for is looked at when something is sent there
    return None if reachable else f"Nothing is sent to {host}: it is not public, or not reached with https."
