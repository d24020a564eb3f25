"""A webhook can reach no address inside our own network, however it is written."""

from ipaddress import ip_address

import pytest

from services.webhooks.addresses import is_public

REFUSED = {
    "unspecified": "0.0.0.0",
    "this network": "0.1.2.3",
    "loopback": "127.0.0.1",
    "any loopback": "127.255.255.254",
    "private 10": "10.0.0.1",
    "private 172": "172.16.0.1",
    "private 192": "192.168.1.1",
    "carrier": "100.64.0.1",
    "cloud metadata": "169.254.169.254",
    "protocol assignments": "192.0.0.170",
    "documentation": "192.0.2.1",
    "6to4 relay": "192.88.99.1",
    "benchmarks": "198.18.0.1",
    "multicast": "224.0.0.1",
    "global multicast": "233.252.0.1",
    "reserved": "240.0.0.1",
    "broadcast": "255.255.255.255",
    "IPv6 unspecified": "::",
    "IPv6 loopback": "::1",
    "IPv4-compatible": "::7f00:1",
    "mapped loopback": "::ffff:127.0.0.1",
    "mapped metadata": "::ffff:169.254.169.254",
    "mapped private": "::ffff:10.0.0.1",
    "translated": "::ffff:0:10.0.0.1",
    "NAT64 of private": "64:ff9b::a00:1",
    "local NAT64": "64:ff9b:1::a00:1",
    "discard": "100::1",
    "Teredo": "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "ORCHID": "2001:10::1",
    "documentation IPv6": "2001:db8::1",
    "newer documentation IPv6": "3fff::1",
    "6to4 of private": "2002:a00:1::1",
    "6to4 of loopback": "2002:7f00:1::1",
    "segment routing": "5f00::1",
    "unique local": "fd00:ec2::254",
    "unique local fc": "fc00::1",
    "link local": "fe80::1",
    "link local with a zone": "fe80::1%eth0",
    "global with a zone": "2606:4700::1%eth0",
    "site local": "fec0::1",
    "multicast IPv6": "ff02::1",
    "global multicast IPv6": "ff0e::1",
}
ALLOWED = ("1.1.1.1", "93.184.215.14", "172.32.0.1", "2606:4700:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101")


@pytest.mark.parametrize("address", REFUSED.values(), ids=REFUSED.keys())
def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize("address", ALLOWED)
def test_a_public_address_is_allowed(address: str) -> None:
    assert is_public(ip_address(address))
