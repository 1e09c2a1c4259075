"""Does what only hints ask for keep nobody from a start?"""

from __future__ import annotations

import asyncio
import threading

from firecrestspawner.client import FirecREST
from firecrestspawner.errors import Unwell
from firecrestspawner.isolation import USERS, State
from firecrestspawner.models import Secret
from tests.unit.client.api import Site, failure


async def test_an_accounting_that_is_down_keeps_no_job_from_being_started(
    site: Site, firecrest: FirecREST
) -> None:
    """R9: hints stand before a guard of their own."""
    site.standin.faults.set("userinfo", status=424)
    bob = Secret(site.issuer.log_in("bob")["access_token"])
    for user in (site.alice, site.service, bob):
        await failure(firecrest.status(user, "demo", "userinfo"), Unwell)
    assert firecrest.guard("demo", beside="hints").breaker.state is State.OPEN
    assert firecrest.guard("demo").breaker.state is State.CLOSED
    assert (await firecrest.jobs(site.alice, "demo", name="hub-x", all_users=False)).jobs == []


async def test_forms_that_many_open_take_no_turn_from_starts(
    site: Site, firecrest: FirecREST
) -> None:
    """R9: more hints that hang than there are turns."""
    answered = threading.Event()
    site.standin.faults.set("userinfo", until=answered)
    users = [Secret(f"user {n}") for n in range(USERS + 5)]
    hanging = [asyncio.ensure_future(firecrest.status(user, "demo", "userinfo")) for user in users]
    try:
        await asyncio.sleep(0)  # each has begun
        assert firecrest.guard("demo", beside="hints")._users.locked()
        listing = firecrest.jobs(site.alice, "demo", name="hub-x", all_users=False)
        assert (await listing).jobs == []
        assert not any(each.done() for each in hanging)
    finally:
        answered.set()
        for each in hanging:
            each.cancel()
        await asyncio.gather(*hanging, return_exceptions=True)
