"""May the Hub and its proxy connect where a job says its server is? (S8)

Pure but for the name resolution it is given. A server's address counts only if the job runs on
nodes of the system, the numeric address lies in the networks the deployer named (by default: those
nodes' own addresses), the port is in the configured range, and the address is nobody's of ours.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence

import hostlist

from .errors import AddressRefused

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolve = Callable[[str], Awaitable[Sequence[str]]]

#: A job on more nodes than this is not expanded; the batch host is among the first.
MAX_NODES = 4096

_REFUSED = "The server reported an address that the Hub must not connect to"


def expand(nodes: str) -> list[str]:
    """The host names of a scheduler's hostlist expression, e.g. ``nid[001-003]``.

    Raises AddressRefused when it is no such expression or names too many hosts.
    """
    try:
        names = hostlist.expand_hostlist(nodes, allow_duplicates=False)
    except (hostlist.BadHostlist, ValueError, TypeError):
        raise AddressRefused(f"{_REFUSED}: the job's node list cannot be read.") from None
    if len(names) > MAX_NODES:
        raise AddressRefused(f"{_REFUSED}: the job has too many nodes.")
    return list(names)


def numeric(text: str) -> IPAddress | None:
    """The address ``text`` writes out, IPv4 out of its IPv6-mapped form; None for a name."""
    try:
        address = ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped or address


def refusal(address: IPAddress, networks: Iterable[IPNetwork], own: Collection[IPAddress]) -> str:
    """Why ``address`` must not be connected to, in a few words; empty when it may."""
    fitting = [n for n in networks if n.version == address.version and address in n]
    if getattr(address, "scope_id", None):
        return "it is a link-local address"
    if address.is_link_local:
        return "it is a link-local address"
    if address.is_multicast or address.is_unspecified:
        return "it is not the address of one host"
    # A network that is itself loopback was named on purpose: a demo, or one-host clusters.
    on_purpose = any(n.is_loopback for n in fitting)
    if address.is_loopback and not on_purpose:
        return "it is a loopback address"
    if address in own:
        return "it is the Hub's own address"
    if not fitting:
        return "it is not in the system's networks"
    return ""


async def choose(
    addresses: Sequence[str],
    port: int,
    *,
    job_nodes: str,
    nodes: Mapping[str, Sequence[str]],
    networks: Sequence[IPNetwork],
    own: Collection[IPAddress],
    ports: tuple[int, int],
    resolve: Resolve,
    template: str = "",
) -> tuple[str, int]:
    """The first reported address that passes, as a number, with the port.

    Parameters
    ----------
    addresses: host names and numeric addresses, in the job's own order of preference.
    job_nodes: the hostlist of the job's nodes, as the service account sees it.
    nodes: the system's node list: each node's name, and the addresses known for it.
    networks: where servers may be; empty for exactly the addresses of the job's nodes.
    own: the Hub's and the proxy's addresses.
    ports: the lowest and highest port allowed, inclusive; (0, 0) for any.
    resolve: host name to numeric addresses.
    template: the name by which a node is reached from outside, ``{node}`` for its own; empty for
        the addresses that the job reports. What it leads to has to pass as they do.

    Raises AddressRefused with the reason.
    """
    low, high = ports
    if (low or high) and not low <= port <= high:
        raise AddressRefused(f"{_REFUSED}: port {port} is outside {low}-{high}.")
    job_names = expand(job_nodes)
    known = {name: nodes[name] for name in job_names if name in nodes}
    if not known or len(known) != len(job_names):
        raise AddressRefused(
            f"{_REFUSED}: the job does not run on nodes of the system.",
            detail=f"the job's nodes {job_nodes[:200]!r} are not in the system's node list",
        )
    if not networks:
        networks = await _networks_of(known, resolve)
    why = "it names no address"
    if template:
        # Where it says that it is, or wherever it can be.
        addresses = [template.format(node=n) for n in _claimed(addresses, known) or known]
    for reported in addresses:
        numbers = _resolved(reported, resolve) if template else _numbers(reported, known, resolve)
        for address in await numbers:
            why = refusal(address, networks, own)
            if not why:
                return str(address), port
    raise AddressRefused(
        f"{_REFUSED}: {why}.",
        detail=f"refused: {', '.join(addresses)[:200]} port {port}: {why}",
    )


async def _networks_of(known: Mapping[str, Sequence[str]], resolve: Resolve) -> list[IPNetwork]:
    networks: list[IPNetwork] = []
    for names in known.values():
        for name in names:
            for address in await _resolved(name, resolve):
                networks.append(ipaddress.ip_network(address))
    # A node list that says 127.0.0.1 must not open the Hub's own loopback to a job.
    return [network for network in networks if not network.is_loopback]


async def _numbers(
    reported: str, known: Mapping[str, Sequence[str]], resolve: Resolve
) -> list[IPAddress]:
    """What a reported address stands for; a name counts only if it is one of the job's nodes."""
    address = numeric(reported)
    if address is not None:
        return [address]
    for node, names in known.items():
        if _is_called(reported, node, names):
            found: list[IPAddress] = []
            for name in names or (node,):
                found += await _resolved(name, resolve)
            return found or await _resolved(node, resolve)
    return []


def _claimed(addresses: Sequence[str], nodes: Mapping[str, Sequence[str]]) -> list[str]:
    """Those of the nodes that the job's addresses are names or numbers of."""
    return [
        node
        for node, names in nodes.items()
        if any(_is_called(reported, node, names) for reported in addresses)
    ]


def _is_called(reported: str, node: str, names: Sequence[str]) -> bool:
    return reported in (node, *names) or reported.split(".", 1)[0] == node


async def _resolved(name: str, resolve: Resolve) -> list[IPAddress]:
    address = numeric(name)
    if address is not None:
        return [address]
    found = [numeric(text) for text in await resolve(name)]
    return [address for address in found if address is not None]


def parse_networks(texts: Iterable[str]) -> list[IPNetwork]:
    """Read ``connect_networks``. Raises ValueError naming the entry that is no network."""
    networks: list[IPNetwork] = []
    for text in texts:
        try:
            networks.append(ipaddress.ip_network(text))
        except ValueError:
            raise ValueError(f"{text!r} is not a network such as '10.1.0.0/16'") from None
    return networks
