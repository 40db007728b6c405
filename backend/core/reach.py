"""Who may be connected to on the word of a stranger: nobody inside this network but the hub that was configured there.

A redirect may name any machine, and a name may come to mean another address between two questions. So the name is looked up
here, once for each connection, and what is judged is the very address that is then connected to. Where a proxy stands
between, it alone looks names up, and whom it reaches is its own matter.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

Address = IPv4Address | IPv6Address
NAT64 = ip_network("64:ff9b::/96")
OF_A_HOUSE = tuple(ip_network(each) for each in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"))
OF_A_CLOUD = ip_network("fd00:ec2::/32")
"""Where a cloud tells its machines their secrets, in a range that is otherwise a house's own."""
NOT_OUTSIDE = tuple(ip_network(each) for each in (
    "64:ff9b:1::/48", "::/96", "::ffff:0:0:0/96",  # older addresses in ways that each network makes of them what it likes
    "fec0::/10", "5f00::/16",  # of a site, and of routers among themselves
    "168.63.129.16/32",  # where a cloud's machines find their own host
))  # fmt: skip
"""What belongs to no single machine of the internet, though no registry calls it private."""


class Inward(OSError):
    """What was asked for lies inside this network."""

    def __init__(self, host: str) -> None:
        super().__init__(f"{host} is an address inside this network")
        self.host = host


@dataclass(frozen=True)
class Reach:
    """Addresses that may be connected to: those of the internet, and `own`, where the hub itself stands inside. A hub that
    stands in a house may keep its files on other machines of it."""

    own: frozenset[tuple[Address, int]]

    def addresses(self, host: str, port: int) -> list[str]:
        """What this name may be connected to as. Raises `Inward` where there is nothing of it, `OSError` for an unknown name."""
        allowed = [str(each) for each in _looked_up(host, port) if self._allows(each, port)]
        if not allowed:
            raise Inward(host)
        return allowed

    def connect(self, address: tuple[str, int], *options: object) -> socket.socket:
        """As `socket.create_connection`, which takes the same options."""
        refused: OSError = Inward(address[0])
        for each in self.addresses(*address):
            try:
                return socket.create_connection((each, address[1]), *options)  # type: ignore[arg-type]
            except OSError as error:
                refused = error
        raise refused

    def _allows(self, address: Address, port: int) -> bool:
        is_at_home = any(_is_of_a_house(each) for each, _ in self.own)
        return is_outside(address) or (address, port) in self.own or (is_at_home and _is_of_a_house(address))


@lru_cache(maxsize=16)
def reach_of(home: str) -> Reach:
    """Whom the hub at this address may lead to. Its name is understood once: what it means later changes nothing. Raises
    `OSError` where it is unknown."""
    parts = urlsplit(home)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    found = [] if proxy_of(parts.scheme, host) else _looked_up(host, port)
    return Reach(frozenset((each, port) for each in found if not is_outside(each)))


def is_outside(address: Address) -> bool:
    """Whether the address, or the one that is written inside of it, is of the internet."""
    if inner := _inner(address):
        return is_outside(inner)
    return address.is_global and not address.is_multicast and not any(address in each for each in NOT_OUTSIDE)


def proxy_of(scheme: str, host: str) -> str | None:
    """The proxy that the environment names for this host."""
    found = getproxies()
    return None if proxy_bypass(host) else found.get(scheme) or found.get("all")


def _inner(address: Address) -> IPv4Address | None:
    """The older address that a gateway would make of it."""
    if isinstance(address, IPv4Address):
        return None
    if address in NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


def _is_of_a_house(address: Address) -> bool:
    return address not in OF_A_CLOUD and any(address in each for each in OF_A_HOUSE)


def _looked_up(host: str, port: int) -> list[Address]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(ip_address(str(each[4][0]).partition("%")[0]) for each in found))
