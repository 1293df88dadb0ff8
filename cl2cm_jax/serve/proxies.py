"""Reverse proxies that are trusted to say for whom they ask (X-Forwarded-For): uvicorn's `forwarded_allow_ips`."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from cl2cm_jax.errors import UserError

_MAPPED = ipaddress.IPv6Address("::ffff:0:0")  # where IPv6 carries IPv4 addresses, as on a socket of both


def parse_proxies(text: str) -> list[str]:
    """The networks of a list such as "10.0.0.7,192.168.1.0/24,::1"; an IPv4 one also as a socket of IPv6 shows it.

    Raises:
      UserError: an entry is neither an address nor a network; all addresses ("*", "0.0.0.0/0") are no proxy, since any
        client could then choose the address that its requests count for.
    """
    networks = list[str]()
    for entry in (entry.strip() for entry in text.split(",") if entry.strip()):
        try:
            network = ipaddress.ip_network(entry)
        except ValueError as error:
            raise UserError(
                f"--trusted_proxy={entry!r} is not the address or the network of a proxy, such as 10.0.0.7, "
                "10.0.0.0/24 or ::1"
            ) from error
        if not network.prefixlen:
            raise UserError(f"--trusted_proxy={entry} is every address; name those of your proxies")
        networks.append(str(network))
        if network.version == 4:
            mapped = ipaddress.IPv6Address(int(_MAPPED) + int(network.network_address))
            networks.append(f"{mapped}/{96 + network.prefixlen}")
    return networks


def is_proxy(address: str, networks: Sequence[str]) -> bool:
    """Whether an address is in one of the networks."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(parsed in ipaddress.ip_network(network) for network in networks)
