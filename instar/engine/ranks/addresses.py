"""Addresses at which the other ranks may reach this machine, and which network interface leads to them.

Nothing here needs a host name that resolves, or IPv4. Standard library only.
"""

import fcntl
import os
import socket
import struct
from pathlib import Path

# Interfaces that lead nowhere else: the machine itself, and what container engines and hypervisors lay.
_INNER = ("lo", "docker", "virbr", "veth", "br-", "cni", "podman")
_SIOCGIFADDR = 0x8915
# Documentation addresses (RFC 5737, RFC 3849): nothing is sent, the system only says which way it would go.
_ELSEWHERE = (("192.0.2.1", socket.AF_INET), ("2001:db8::1", socket.AF_INET6))


def listen(*, only_here: bool) -> socket.socket:
    """A socket on a free port, for both kinds of addresses where the system has both.

    only_here   take connections of this machine only
    """
    if not only_here and socket.has_dualstack_ipv6():
        return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
    host4, host6 = ("127.0.0.1", "::1") if only_here else ("", "")
    try:
        return socket.create_server((host4, 0), family=socket.AF_INET, backlog=1024)
    except OSError:
        return socket.create_server((host6, 0), family=socket.AF_INET6, backlog=1024)


def own(listening: socket.socket) -> str:
    """The address at which this very process reaches its listening socket."""
    address = str(listening.getsockname()[0])
    if address not in ("::", "0.0.0.0"):  # noqa: S104
        return address
    both = address == "::" and listening.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 0
    has_ipv4 = any(its == "127.0.0.1" for _, its in _interfaces())
    return "127.0.0.1" if address != "::" or (both and has_ipv4) else "::1"


def candidates() -> list[str]:
    """Where others may reach this machine, most likely first: addresses, then names that may resolve elsewhere."""
    routed = [address for target, family in _ELSEWHERE if (address := _route(target, family))]
    interfaces = [address for name, address in _interfaces() if not name.startswith(_INNER)]
    names = [os.environ.get("SLURMD_NODENAME", ""), socket.gethostname()]
    return list(dict.fromkeys(address for address in [*routed, *interfaces, *names] if address))


def first() -> str | None:
    """The likeliest numeric address of this machine."""
    return next((address for address in candidates() if is_numeric(address)), None)


def is_numeric(host: str) -> bool:
    """Whether this is an address rather than a name."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except OSError:
            continue
        return True
    return False


def towards(target: str) -> str | None:
    """Our own address on the way to a numeric address of another machine, or None where there is no way."""
    return _route(target, socket.AF_INET6 if ":" in target else socket.AF_INET)


def interface_of(address: str) -> str | None:
    """The name of the interface that has this address."""
    return next((name for name, its in _interfaces() if its == address), None)


def loopback() -> str | None:
    """The name of the interface that leads back to this machine."""
    return next((name for name, address in _interfaces() if address in ("127.0.0.1", "::1")), None)


def _route(target: str, family: socket.AddressFamily) -> str | None:
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((target, 9))
            return str(probe.getsockname()[0])
    except OSError:
        return None


def _interfaces() -> list[tuple[str, str]]:
    """Interface names with an address each, both kinds; empty where the system is not Linux."""
    return [*_ipv4(), *_ipv6()]


def _ipv4() -> list[tuple[str, str]]:
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(asked.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:
                continue  # it has none
            found.append((name, socket.inet_ntoa(answer[20:24])))
    return found


def _ipv6() -> list[tuple[str, str]]:
    try:
        lines = Path("/proc/net/if_inet6").read_text(encoding="ascii").splitlines()
    except OSError:
        return []
    found = []
    for fields in (line.split() for line in lines):
        address = socket.inet_ntop(socket.AF_INET6, bytes.fromhex(fields[0]))
        if not address.startswith("fe80"):  # link-local addresses need the reader's own interface number
            found.append((fields[5], address))
    return found
