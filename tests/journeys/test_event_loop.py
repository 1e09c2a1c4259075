"""Does anything in a whole Hub keep its event loop from everybody else?"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx

from tests.journeys.person import Person
from tests.journeys.puppets import Log, ask
from tests.journeys.site import Site, eventually

#: What waits is told by Python itself (sys.addaudithook; of a sleep from 3.11 on): a name that is
#: looked up, a connection, a sleep, in the thread whose loop runs. A socket of the loop's own does
#: not wait, and a number needs no looking up: so there are names here.
WATCH = """
import asyncio, os, re, socket, sys, traceback

WAITS = {"socket.getaddrinfo", "socket.gethostbyname", "socket.connect", "time.sleep"}

def watch(event, args):
    if event not in WAITS or asyncio._get_running_loop() is None:
        return
    if event == "socket.connect" and args[0].gettimeout() == 0:
        return
    if event.startswith("socket.get") and re.fullmatch(r"[0-9.]+|.*:.*", str(args[0])):
        return
    where = " < ".join(f"{f.filename}:{f.lineno}" for f in reversed(traceback.extract_stack()[:-1]))
    print(f"BLOCKED by {event}: {where}", file=sys.stderr, flush=True)

sys.addaudithook(watch)
for name in ("FIRECREST_URL", "SA_AUTH_TOKEN_URL"):
    os.environ[name] = os.environ[name].replace("127.0.0.1", "localhost")

async def waiting(spawner):
    if spawner.name == "waiting":
        socket.gethostbyname("localhost")

c.Spawner.pre_spawn_hook = waiting
"""
#: Seconds a Hub has to answer what needs nobody else, though others wait: shorter than each of its
#: own deadlines (a token 10, FirecREST 30), so that what waited for one of them would be seen.
PROMPT = 5.0


def blocked(log: Log) -> list[str]:
    return [line for line in log.text.splitlines() if line.startswith("BLOCKED")]


def test_nothing_waits_in_the_event_loops_own_thread(make_site: Callable[..., Site]):
    """R8: no name is looked up, no connection waited for, no sleep: login, start, refresh, the
    pages, a server at work, stop, and a start while FirecREST is away."""
    site = make_site(extra_config=WATCH)
    log = Log(site)
    site.issuer.lifetimes.access_token = 45.0  # too short to be used: every use refreshes it
    with Person(site, "alice") as alice:
        alice.log_in()
        alice.start()
        assert alice.run(alice.start_kernel(), "6*7") == "42"
        alice.open(alice.hub("home"))
        alice.stop()
        site.firecrest.stop()
        assert ask(alice, "away").status_code == 503
        site.firecrest.start()
        assert blocked(log) == []
        assert site.firecrest.count("submit", "alice") == 1
        # What does wait would have been seen.
        alice.start("waiting")
        assert ["gethostbyname" in line for line in blocked(log)] == [True]
        alice.stop("waiting")


def test_the_hub_answers_others_while_firecrest_and_the_issuer_answer_nobody(site: Site):
    """R8, R9: alice waits for both; bob's pages do not."""
    answer = threading.Event()
    with Person(site, "alice") as alice, Person(site, "bob") as bob:
        for person in (alice, bob):
            person.log_in()
        held = site.firecrest.faults.set("*", until=answer)
        with ThreadPoolExecutor(1) as waiting:
            waiting.submit(alice.ask_for_server)
            try:
                eventually(lambda: held.hits, what="a request that is not answered")
                site.issuer.faults.set("*", hold=answer)
                with httpx.Client(trust_env=False, timeout=PROMPT) as quick:
                    for _ in range(5):
                        assert quick.get(f"{site.hub_url}/hub/health").status_code == 200
                bob.open(bob.hub("home"))
                assert bob.model()["servers"] == {}
                assert not alice.servers()[""]["ready"]
            finally:
                answer.set()
        alice.wait_until_ready()
        alice.stop()
