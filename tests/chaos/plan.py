"""What goes wrong in one schedule, and when? Pure: a seed in, a plan out."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

#: Seconds for which faults may last that a Hub is to outlive without losing anything.
LENGTHS = (60.0, 120.0, 300.0, 300.0, 600.0, 900.0)
USERS = ("alice", "bob")
SERVERS = (("alice", ""), ("alice", "other"), ("bob", ""))

#: What each place can do instead of its work. Of ``firecrest`` by operation: what a write answers
#: so may have had its effect all the same.
ANSWERS = {
    "submit": ("refused", "lost", "hang", "408", "500", "502", "503", "424", "429", "garbage",
               "401", "lie", "slow"),
    "cancel": ("refused", "lost", "hang", "408", "500", "502", "503", "garbage", "401", "slow"),
    "list": ("refused", "lost", "hang", "500", "503", "garbage", "empty", "poison", "forged",
             "forged", "stale", "slow"),
    "own": ("refused", "hang", "500", "503", "garbage", "empty", "slow"),
    "job": ("refused", "lost", "hang", "500", "503", "404", "garbage", "young", "stale", "slow"),
    "nodes": ("refused", "500", "garbage"),
    "*": ("refused", "lost", "hang", "500", "502", "503", "garbage", "404", "empty", "service 401",
          "slow"),
}  # fmt: skip
CHANNEL = ("refused", "lost", "hang", "403", "404", "502", "503", "login", "slow")
ISSUER = ("away", "session ended", "service away")


@dataclass(frozen=True)
class Window:
    """From ``begin`` to ``end`` the place does ``kind`` in ``chance`` of the cases.

    ``where`` narrows it: an operation of FirecREST, or a user of the issuer.
    """

    begin: float
    end: float
    place: str
    kind: str
    where: str = "*"
    chance: float = 1.0
    seconds: float = 0.0

    def __str__(self) -> str:
        share = f" in {self.chance:.0%}" if self.chance < 1 else ""
        return (
            f"{self.begin:.0f}-{self.end:.0f} s: {self.place} {self.where}: {self.kind}"
            f" {self.seconds:.3g}{share}"
        )


@dataclass(frozen=True)
class Press:
    """A user presses start or stop."""

    at: float
    button: str
    user: str
    server: str


@dataclass(frozen=True)
class Crash:
    """The Hub goes down for ``down`` seconds: killed at once, after ``fuse`` steps, or politely."""

    at: float
    down: float
    how: str
    fuse: int = 0


@dataclass
class Plan:
    """One schedule.

    ``filters``: whether FirecREST filters lists by name (2.5.6 does not). ``peaceful``: no job
    waits in the queue, and none ends by itself. ``short_limits``: jobs come to their time limit.
    """

    seed: int
    length: float
    story: str = "anything"
    windows: list[Window] = field(default_factory=list)
    presses: list[Press] = field(default_factory=list)
    crashes: list[Crash] = field(default_factory=list)
    filters: bool = True
    peaceful: bool = False
    short_limits: bool = False

    def lines(self) -> list[str]:
        """The plan for a person."""
        return [
            f"{self.story}; faults for {self.length:.0f} s; lists are"
            f"{'' if self.filters else ' not'} filtered",
            *(str(window) for window in self.windows),
            *(f"{p.at:.1f} s: {p.user} presses {p.button} {p.server!r}" for p in self.presses),
            *(f"{c.at:.1f} s: the Hub is down for {c.down:.1f} s: {c.how} {c.fuse or ''}"
              for c in self.crashes),
        ]  # fmt: skip


def plan(seed: int, story: str = "") -> Plan:
    """The schedule of a seed; of a story's kind, or of any."""
    rng = random.Random(f"plan {seed} {story}")
    story = story or rng.choice((*STORIES, *["anything"] * 3))
    made = Plan(seed, rng.choice(LENGTHS), story, filters=rng.random() < 0.7)
    STORIES[story](rng, made)
    made.presses.sort(key=lambda press: press.at)
    made.crashes.sort(key=lambda crash: crash.at)
    return made


# -- the stories -------------------------------------------------------------------------------


def _anything(rng: random.Random, made: Plan) -> None:
    """Whatever comes to mind."""
    made.presses = _presses(rng, made.length)
    for _ in range(rng.choice((0, 1, 1, 2, 2, 3, 4))):
        made.windows.append(_window(rng, made.length, made.presses))
    for _ in range(rng.choice((0, 0, 1, 1, 2))):
        made.crashes.append(_crash(rng, made.length, made.presses))


def _lost_submit(rng: random.Random, made: Plan) -> None:
    """A submit's answer is lost, and the user tries again."""
    made.length = rng.choice((60.0, 120.0))
    user, server = rng.choice(SERVERS)
    begin = rng.uniform(0, 10)
    kind = rng.choice(("lost", "hang", "408", "500", "502", "garbage"))
    made.windows.append(Window(0, begin + rng.choice((1.0, 40.0)), "firecrest", kind, "submit"))
    if rng.random() < 0.4:
        kind = rng.choice(("refused", "500", "empty"))
        made.windows.append(Window(0, begin + 30, "firecrest", kind, "own"))
    made.presses.append(Press(begin, "start", user, server))
    if rng.random() < 0.7:
        made.presses.append(Press(begin + rng.uniform(2, 50), "start", user, server))
    if rng.random() < 0.4:
        made.crashes.append(_crash(rng, made.length, made.presses))


def _vain_stop(rng: random.Random, made: Plan) -> None:
    """A stop cannot cancel, and the job has to be told; the Hub may restart in between."""
    made.length = rng.choice((120.0, 300.0))
    user, server = rng.choice(SERVERS)
    stop = rng.choice((0.5, 5.0, 40.0)) * rng.uniform(0.5, 1.5)
    made.presses += [Press(0.1, "start", user, server), Press(stop, "stop", user, server)]
    if rng.random() < 0.5:
        kind = rng.choice(("away", "session ended"))
        made.windows.append(Window(stop - 0.05, made.length, "issuer", kind, user))
    else:
        kind = rng.choice(("refused", "408", "500", "503", "hang"))
        made.windows.append(Window(stop - 0.05, made.length, "firecrest", kind, "cancel"))
    if rng.random() < 0.7:
        made.windows.append(Window(stop - 0.05, made.length, "channel", rng.choice(CHANNEL)))
    if rng.random() < 0.7:
        at = stop + rng.choice((0.0, 2.0, 60.0)) * rng.random()
        made.crashes.append(Crash(at, rng.uniform(0.5, 20), rng.choice(("kill", "clean"))))


def _blind(rng: random.Random, made: Plan) -> None:
    """Lists and answers about jobs say what is not so, for minutes."""
    made.length = 600.0
    for user, server in rng.sample(SERVERS, rng.choice((1, 2, 3))):
        made.presses.append(Press(rng.uniform(0, 5), "start", user, server))
    begin = rng.choice((0.0, 30.0))
    for where, kinds in {
        "list": ("empty", "forged", "forged", "poison", "garbage", ""),
        "job": ("404", "404", "young", "500", ""),
    }.items():
        if kind := rng.choice(kinds):
            end = rng.uniform(begin, made.length)
            chance = rng.choice((1.0, 0.5))
            made.windows.append(Window(begin, end, "firecrest", kind, where, chance, 40.0))
    if rng.random() < 0.3:
        made.crashes.append(_crash(rng, made.length, made.presses))


def _bad_proxy(rng: random.Random, made: Plan) -> None:
    """What stands before the Hub answers jobs in its place, for minutes."""
    made.length = rng.choice((120.0, 600.0))
    user, server = rng.choice(SERVERS)
    made.presses.append(Press(0.1, "start", user, server))
    for _ in range(rng.choice((1, 2, 3))):
        begin = rng.uniform(0, 60)
        end = rng.uniform(begin, made.length)
        chance = rng.choice((1.0, 1.0, 0.5))
        made.windows.append(Window(begin, end, "channel", rng.choice(CHANNEL), "*", chance, 5.0))
    if rng.random() < 0.3:
        made.presses.append(Press(rng.uniform(0, made.length), "stop", user, server))


def _killed_start(rng: random.Random, made: Plan) -> None:
    """The Hub dies in the middle of a start, perhaps twice."""
    made.length = 60.0
    for user, server in rng.sample(SERVERS, rng.choice((1, 1, 2))):
        made.presses.append(Press(rng.uniform(0, 5), "start", user, server))
    for _ in range(rng.choice((1, 1, 2))):
        at = rng.choice(made.presses).at + rng.choice((0.0, 0.0, 0.5, 5.0)) * rng.random()
        made.crashes.append(Crash(at, rng.uniform(0.5, 10), "kill", rng.randint(1, 60)))
    if rng.random() < 0.3:
        made.windows.append(_window(rng, made.length, made.presses))


def _time_limit(rng: random.Random, made: Plan) -> None:
    """Jobs come near their time limits, are extended or not, and answers about them fail."""
    made.length, made.short_limits = 900.0, True
    for user, server in rng.sample(SERVERS, rng.choice((1, 2, 3))):
        made.presses.append(Press(rng.uniform(0, 5), "start", user, server))
    for _ in range(rng.choice((0, 1, 2))):
        place, where, kind = _fault(rng, rng.choice(("list", "job", "channel", "*")))
        if rng.random() < 0.5:
            place, where, kind = "firecrest", "list", "forged"
        begin = rng.uniform(0, 500)
        end = begin + rng.choice((30.0, 120.0, 400.0))
        chance = rng.choice((1.0, 0.5))
        made.windows.append(Window(begin, min(end, made.length), place, kind, where, chance, 5.0))
    if rng.random() < 0.3:
        made.crashes.append(_crash(rng, made.length, made.presses))


STORIES: dict[str, Callable[[random.Random, Plan], None]] = {
    "anything": _anything,
    "lost submit": _lost_submit,
    "vain stop": _vain_stop,
    "blind": _blind,
    "bad proxy": _bad_proxy,
    "killed start": _killed_start,
    "time limit": _time_limit,
}

# -- what they are made of ---------------------------------------------------------------------


def _presses(rng: random.Random, length: float) -> list[Press]:
    found = []
    for user, server in rng.sample(SERVERS, rng.choice((1, 1, 1, 1, 2, 2, 3))):
        at = rng.uniform(0, length / 3)
        button = "start"
        for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
            found.append(Press(at, button, user, server))
            button = "stop" if button == "start" else "start"
            at += rng.choice((0.05, 1.0, 5.0, 30.0, length / 3)) * rng.uniform(0.2, 1.5)
            if at > length:
                break
    return found


def _moment(rng: random.Random, length: float, presses: list[Press]) -> float:
    """Any time, or, more often, when somebody has just done something."""
    if rng.random() < 0.4:
        return rng.uniform(0, length)
    return min(
        length, rng.choice(presses).at + rng.choice((0.1, 1.0, 3.0, 10.0, 60.0)) * rng.random()
    )


def _window(rng: random.Random, length: float, presses: list[Press]) -> Window:
    begin = max(0.0, _moment(rng, length, presses) - rng.choice((0.0, 0.5, 20.0)))
    end = min(length, begin + length * rng.choice((0.02, 0.1, 0.3, 1.0)))
    chance = rng.choice((1.0, 1.0, 1.0, 0.5, 0.2))
    seconds = rng.choice((2.0, 5.0, 10.0, 20.0, 40.0))
    place, where, kind = _fault(rng, rng.choice((*ANSWERS, "channel", "channel", "issuer")))
    if rng.random() < 0.6:
        # What a press leads to fails.
        press = rng.choice(presses)
        begin = max(0.0, press.at - rng.choice((0.01, 1.0)))
        end = min(length, press.at + rng.choice((2.0, 5.0, 60.0)))
        after = ("submit", "submit", "own", "job", "list", "channel", "*")
        if press.button == "stop":
            after = ("cancel", "cancel", "issuer", "issuer", "job", "channel", "*")
        place, where, kind = _fault(rng, rng.choice(after))
    return Window(begin, end, place, kind, where, chance, seconds)


def _fault(rng: random.Random, what: str) -> tuple[str, str, str]:
    """Where and how something fails: place, narrower place, kind."""
    if what == "channel":
        return what, "*", rng.choice(CHANNEL)
    if what == "issuer":
        return what, rng.choice((*USERS, "*")), rng.choice(ISSUER)
    return "firecrest", what, rng.choice(ANSWERS[what])


def _crash(rng: random.Random, length: float, presses: list[Press]) -> Crash:
    down = rng.choice((0.5, 3.0, 20.0, 120.0)) * rng.uniform(0.3, 1.0)
    if rng.random() < 0.4:
        # Between two steps of whatever the Hub does after a press.
        at = rng.choice(presses).at
        return Crash(at, down, "kill", rng.randint(1, rng.choice((20, 60, 200))))
    how = rng.choice(("kill", "kill", "clean"))
    return Crash(_moment(rng, length, presses), down, how)
