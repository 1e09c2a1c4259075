"""Does the Hub connect only where the system is? (S8)"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from firecrestspawner import address
from firecrestspawner.errors import AddressRefused

NODES = {
    "nid001": ("10.1.0.1", "nid001"),
    "nid002": ("10.1.0.2", "nid002"),
    "nid003": ("nid003.hsn",),
    "loop": ("127.0.0.1",),
}
DNS = {
    "nid001": ["10.1.0.1"],
    "nid003.hsn": ["10.2.0.3"],
    "evil.example": ["10.1.0.1"],
    # Where translated addresses lead from outside.
    "nid001.gw": ["172.16.0.1"],
    "nid002.gw": ["172.16.0.2"],
    "nid003.gw": ["10.1.0.99"],
    "loop.gw": ["127.0.0.1"],
}
OWN = {address.numeric("10.1.0.99"), address.numeric("2001:db8::99")}


async def resolve(name: str) -> Sequence[str]:
    return DNS.get(name, [])


async def choose(
    *addresses: str,
    port: int = 20005,
    job_nodes: str = "nid001",
    networks: Sequence[str] = (),
    ports: tuple[int, int] = (20000, 20999),
    template: str = "",
) -> tuple[str, int]:
    return await address.choose(
        addresses,
        port,
        job_nodes=job_nodes,
        nodes=NODES,
        networks=address.parse_networks(networks),
        own={number for number in OWN if number},
        ports=ports,
        resolve=resolve,
        template=template,
    )


async def test_a_node_name_becomes_the_numeric_address_the_scheduler_has_for_it() -> None:
    """S8: resolved once, stored as a number."""
    assert await choose("nid001") == ("10.1.0.1", 20005)


async def test_a_node_without_a_number_in_the_list_is_resolved() -> None:
    assert await choose("nid003", job_nodes="nid003") == ("10.2.0.3", 20005)


async def test_of_a_multi_homed_job_the_first_address_that_passes_wins() -> None:
    """S8."""
    found = await choose("192.168.7.7", "127.0.0.1", "10.1.0.1", "10.1.0.2")
    assert found == ("10.1.0.1", 20005)


@pytest.mark.parametrize(
    ("reported", "why"),
    [
        ("127.0.0.1", "loopback"),
        ("127.9.9.9", "loopback"),
        ("::1", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
        ("169.254.169.254", "link-local"),
        ("::ffff:169.254.169.254", "link-local"),
        ("fe80::1", "link-local"),
        ("fe80::1%eth0", "link-local"),
        ("10.1.0.99", "own"),
        ("::ffff:10.1.0.99", "own"),
        ("2001:db8::99", "own"),
        ("0.0.0.0", "one host"),
        ("::", "one host"),
        ("224.0.0.1", "one host"),
        ("8.8.8.8", "networks"),
    ],
)
async def test_addresses_that_lead_elsewhere_are_refused(reported: str, why: str) -> None:
    """S8: loopback, link-local and our own addresses, IPv6-mapped forms included, however wide
    the configured networks are."""
    networks = ["10.0.0.0/8", "::/0", "169.254.0.0/16", "fe80::/10"]
    with pytest.raises(AddressRefused) as caught:
        await choose(reported, networks=networks)
    assert why in caught.value.message


async def test_a_network_of_everything_does_not_open_loopback() -> None:
    """S8."""
    with pytest.raises(AddressRefused):
        await choose("127.0.0.1", networks=["0.0.0.0/0"])


async def test_a_node_list_that_says_loopback_does_not_open_loopback() -> None:
    """S8: a default must not be an opening."""
    with pytest.raises(AddressRefused):
        await choose("loop", job_nodes="loop")


async def test_a_loopback_network_named_on_purpose_opens_just_that() -> None:
    """S8: the demo's explicit exception."""
    networks = ["127.0.0.2/32"]
    assert await choose("127.0.0.2", networks=networks) == ("127.0.0.2", 20005)
    with pytest.raises(AddressRefused):
        await choose("127.0.0.1", networks=networks)


@pytest.mark.parametrize("port", [1, 80, 19999, 21000, 65535])
async def test_a_port_outside_the_range_is_refused(port: int) -> None:
    """S8."""
    with pytest.raises(AddressRefused, match="port"):
        await choose("nid001", port=port)


async def test_any_port_will_do_when_no_range_is_configured() -> None:
    assert await choose("nid001", port=4711, ports=(0, 0)) == ("10.1.0.1", 4711)


@pytest.mark.parametrize("nodes", ["evil.example", "nid001,evil.example", "", "nid[1-99999999]"])
async def test_a_job_that_runs_elsewhere_than_on_the_systems_nodes_is_refused(nodes: str) -> None:
    """S8."""
    with pytest.raises(AddressRefused):
        await choose("10.1.0.1", job_nodes=nodes)


async def test_a_name_counts_only_if_it_is_one_of_the_jobs_nodes() -> None:
    """S8: no name of the job's choosing is resolved."""
    with pytest.raises(AddressRefused):
        await choose("evil.example", "nid002")


async def test_by_default_only_the_jobs_own_nodes_addresses_are_in() -> None:
    """S8."""
    with pytest.raises(AddressRefused):
        await choose("10.1.0.2")
    assert await choose("10.1.0.2", job_nodes="nid[001-002]") == ("10.1.0.2", 20005)


def test_a_network_that_is_none_is_named() -> None:
    with pytest.raises(ValueError, match=r"10\.0\.0\.0/99"):
        address.parse_networks(["10.0.0.0/99"])


@pytest.mark.parametrize(
    ("addresses", "job_nodes", "found"),
    [
        (["nid002", "10.1.0.2"], "nid[001-002]", "172.16.0.2"),
        (["10.1.0.2"], "nid[001-002]", "172.16.0.2"),
        (["192.168.7.7"], "nid[001-002]", "172.16.0.1"),
        (["172.16.0.2"], "nid001", "172.16.0.1"),
    ],
)
async def test_behind_a_translation_the_sites_template_leads_to_the_jobs_node(
    addresses: list[str], job_nodes: str, found: str
) -> None:
    """S8: whatever else the job reports."""
    where = await choose(
        *addresses, job_nodes=job_nodes, networks=["172.16.0.0/16"], template="{node}.gw"
    )
    assert where == (found, 20005)


@pytest.mark.parametrize("node", ["nid002", "nid003", "loop", "nid009"])
async def test_what_the_template_leads_to_has_to_pass_as_well(node: str) -> None:
    """S8: a number outside the networks, the Hub's own, loopback, a node of another system."""
    networks = ["172.16.0.1/32", "10.1.0.0/16", "0.0.0.0/0"] if node != "nid002" else ["10.0.0.0/8"]
    with pytest.raises(AddressRefused):
        await choose(node, job_nodes=node, networks=networks, template="{node}.gw")
