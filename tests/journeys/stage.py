"""On which site do attackers try, and who watches? Its jobs are puppets, its network a relay."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import httpx

from firecrestspawner.demo.firecrest import System
from tests.journeys.person import Person
from tests.journeys.puppets import Puppet, Theatre
from tests.journeys.relay import Relay
from tests.journeys.site import Site, eventually

#: An admin who is too generous: the other checks of S8 have to do. One system's nodes reach the Hub
#: through the relay, and know of no other way.
GENEROUS = """
c.FirecRESTSpawner.connect_networks = ["127.0.0.0/8", "0.0.0.0/0", "::/0"]
c.FirecRESTSpawner.systems = {{"demo": {{"hub_connect_url": "{relay}"}}, "rested": {{}}}}
"""


class Stage(NamedTuple):
    """A site whose jobs are puppets and reach the Hub through a relay; alice and bob."""

    site: Site
    theatre: Theatre
    relay: Relay
    alice: Person
    bob: Person

    def start(self, person: Person, server: str) -> tuple[Puppet, Future[httpx.Response]]:
        """Begin to start a puppet; its job runs, and has said hello."""
        answer = self.theatre.ask(person, server)
        puppet = self.theatre.next()
        assert puppet.hello()["verdict"] == "start"
        return puppet, answer

    def remains(self) -> list[str]:
        servers = [f"{p.name}'s {list(p.servers())}" for p in (self.alice, self.bob) if p.servers()]
        return servers + [f"job {job.id}" for job in self.site.unfinished()]

    def tidy(self) -> None:
        """Between two tests; AssertionError when one has left something that cannot be ended."""
        # Shown by pytest when the test has failed.
        print(self.site.log_end(40))
        self.site.firecrest.faults.clear()
        self.relay.lose = lambda path, body: False
        self.site.executor.release()
        # A test that failed must not fail those after it.
        for person in (self.alice, self.bob):
            for server in person.servers():
                person.press_stop(server)
        self.theatre.clear()
        eventually(lambda: not self.remains(), 20, f"gone are {self.remains()}")


@contextmanager
def setting() -> Iterator[Stage]:
    """A stage, up inside."""
    with ExitStack() as stack:
        theatre = stack.enter_context(Theatre())
        relay = stack.enter_context(Relay())
        config = theatre.config + GENEROUS.format(relay=relay.url)
        site = stack.enter_context(Site(extra_config=config))
        relay.target = site.hub_url
        rested = System("rested", site.executor, connection_mode="rest")
        site.firecrest.systems["rested"] = rested
        people = [stack.enter_context(Person(site, name)) for name in ("alice", "bob")]
        for person in people:
            person.log_in()
        yield Stage(site, theatre, relay, *people)
