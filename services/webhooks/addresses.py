"""Which network addresses a webhook may be sent to: public ones, whatever they are wrapped in."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

Address = IPv4Address | IPv6Address

# Everything the internet routes today; loopback, link-local, site-local, unique local and multicast lie outside.
GLOBAL_UNICAST = IPv6Network("2000::/3")
# Translators and tunnels that carry IPv4 in an IPv6 address (RFC 6052, 3056, 4380).
NAT64 = IPv6Network("64:ff9b::/96")
TEREDO = IPv6Network("2001::/32")
# Not for use on the internet, though some versions of Python's registry lack them (RFC 7526, 9637).
RETIRED = (IPv4Network("192.88.99.0/24"), IPv6Network("3fff::/20"))


def is_public(address: Address) -> bool:
    """Reachable from anywhere, so that nothing inside our own network can be asked for."""
    if isinstance(address, IPv6Address):
        inner = carried(address)
        if inner is not None:
            return is_public(inner)
        if address not in GLOBAL_UNICAST or address in TEREDO or address.scope_id is not None:
            return False
    return address.is_global and not address.is_multicast and not any(address in network for network in RETIRED)


def carried(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that a packet to this one ends at."""
    if address in NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour
