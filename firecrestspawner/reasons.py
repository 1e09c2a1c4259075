"""Why does a job wait, in words, and does that pass by itself? Slurm's reasons, PBS's comments.

Sources: https://slurm.schedmd.com/job_reason_codes.html for the meanings, and Slurm's own
``job_state_reason.c`` for the complete list of words, which FirecREST passes on as ``stateReason``.
In place of a word Slurm gives a sentence for nodes that are down and for a partition that is not
for this account (recorded; FirecREST facts, job dict). PBS has comments that are sentences anyway.
A text that is in no table is shown as it is: cut, and without characters that do not print.
"""

from __future__ import annotations

import re
from typing import NamedTuple

#: The scheduler's own text is cut to this many characters where it is shown.
SHOWN = 120


class Reason(NamedTuple):
    """``words`` for the user; ``advice`` is a sentence, or empty when there is nothing but to wait.

    ``passes`` is False for what waiting alone does not end.
    """

    words: str
    advice: str = ""
    passes: bool = True


def _never(words: str, what: str) -> Reason:
    return Reason(words, f"Waiting does not help: cancel the start, and {what}.", passes=False)


_LESS = "ask for less"
_SUPPORT = "ask the centre's support"
_TOO_MUCH_TIME = _never("its run time is longer than is allowed here", "choose a shorter run time")
_TOO_MUCH = _never("it asks for more than one job may have", _LESS)
_TOO_LITTLE = _never("it asks for less than a job must have here", "ask for more")
_MY_OTHERS = Reason(
    "you have as many jobs, or as much in use, as one user may",
    "It goes on when another of your jobs ends.",
)
_MY_SUM = _MY_OTHERS._replace(advice=f"{_MY_OTHERS.advice[:-1]}; if you have none, {_LESS}.")
_OTHERS = Reason(
    "those who share a limit with you have as much in use as they may",
    "It goes on when one of their jobs ends.",
)
_SPENT = _never(
    "the time granted to its account is used up",
    f"choose another account, or {_SUPPORT} for more",
)
_NODES = Reason(
    "nodes it needs are not available",
    "They may be down or kept for maintenance: a shorter run time, or another partition, may help.",
)
_ACCOUNT = _never("it may not be charged to that account here", "choose another account")
_QOS = _never("that quality of service is not for this job", "choose another one")
_HELD_BY_US = _never("it is held by the administrators", _SUPPORT)
_BROKEN = _never("the scheduler could not start it", f"start again; if that fails, too, {_SUPPORT}")

#: What a reason is, in the order in which it is looked for: each is the beginning of the text.
_TABLE: tuple[tuple[str, Reason], ...] = (
    # the queue at work
    ("Priority", Reason("other jobs come first")),
    ("Resources", Reason("no nodes are free for it yet")),
    ("Prolog|Cleaning|SchedDefer|FedJobLock|BurstBuffer(Resources|StageIn)|Power(NotAvail|Reserved)",
     Reason("the cluster is being prepared for it")),
    ("BeginTime", Reason("it is to start later")),
    ("Dependency$", Reason("it waits for another job to end")),
    ("DependencyNeverSatisfied", _never("the job it waits for has failed", "start again")),
    ("Licenses", Reason("no licence is free for it yet")),
    ("JobArrayTaskLimit", Reason("enough jobs of its array run already")),
    # nodes and partitions
    ("ReqNodeNotAvail|NodeDown|FrontEndDown|Nodes required for job are DOWN", _NODES),
    ("PartitionDown|PartitionInactive",
     Reason("its partition takes no new jobs at the moment", "Another partition may help.")),
    ("PartitionTimeLimit", _TOO_MUCH_TIME),
    ("PartitionNodeLimit|PartitionConfig",
     _never("its partition does not take it as it is", f"{_LESS}, or choose another partition")),
    ("BadConstraints|Constraints",
     _never("no node has what it asks for", "choose other features, or fewer")),
    # reservations
    ("Reservation(Deleted|Invalid)",
     _never("its reservation is over or not valid", "choose another one, or none")),
    ("Reservation", Reason("its reservation has not begun, or is full")),
    # held
    ("JobHeldUser", _never("it is held", "start again, or release it on the cluster")),
    ("JobHeldAdmin|JobHoldMaxRequeue", _HELD_BY_US),
    # who may, and how much
    ("InvalidAccount|AccountNotAllowed|Job's account not|User's group not permitted", _ACCOUNT),
    ("InvalidQOS|QOSNotAllowed|Job's QOS not", _QOS),
    ("QOSUsageThreshold", _SPENT),
    (r"(QOS|Assoc)MaxWallDurationPerJob", _TOO_MUCH_TIME),
    (r"(QOS|Assoc)Max\w+Per(Job|Node)|MaxMemPerLimit", _TOO_MUCH),
    ("QOSMin", _TOO_LITTLE),
    (r"(QOS|Assoc)Grp\w*RunMinutes",
     Reason("running jobs of its account have taken all that is left for now",
            "It goes on when one of them ends; a shorter run time may help.")),
    (r"(QOS|Assoc)Grp(\w*Minutes|Wall)", _SPENT),
    (r"QOSMax(?!Jobs|Submit)\w+PerUser", _MY_SUM),
    (r"AssocMaxJobs|AssocMaxSubmit|QOSMax\w+PerUser|AssociationJobLimit|QOSJobLimit", _MY_OTHERS),
    (r"Max\w+PerAccount|(QOS|Assoc)Grp|AssociationResourceLimit|QOSResourceLimit", _OTHERS),
    ("AssociationTimeLimit|QOSTimeLimit", _SPENT),
    ("AccountingPolicy|QOS|Assoc",
     Reason("a limit of its account or quality of service is reached",
            f"If it stays so, choose another account, or {_SUPPORT}.")),
    # what went wrong already
    ("SystemFailure|JobLaunchFailure|BurstBufferOperation|OutOfMemory|NonZeroExitCode|RaisedSignal",
     _BROKEN),
    ("TimeLimit|InactiveLimit|DeadLine", _never("its time is over", "start again")),
    # OpenPBS's and PBS Professional's comments (src/scheduler/misc.c), after "Not Running: "
    ("Can Never Run", _never("no node has what it asks for", _LESS)),
    (r"[\w ]*(job limit reached for user|(exceed|reached)[\w ]* user)", _MY_OTHERS),
    (r"[\w ]*(limit reached for|(exceed|reached) (group|project|overall))", _OTHERS),
    ("Insufficient amount|Not enough|No available resources",
     Reason("no nodes are free for it yet")),
    ("Job would (conflict|break)|Draining system", Reason("other jobs come first")),
    ("Queue not (started|enabled)|[Qq]ueue is not started",
     Reason("its queue starts no jobs at the moment", "Another queue may help.")),
)  # fmt: skip

_PATTERNS = tuple((re.compile(pattern), reason) for pattern, reason in _TABLE)


def explain(text: str) -> Reason | None:
    """What a scheduler's reason means; None for one that nobody here knows."""
    text = text.removeprefix("Not Running: ")
    return next((reason for pattern, reason in _PATTERNS if pattern.match(text)), None)


def shown(text: str, limit: int = SHOWN) -> str:
    """Others' text in one line: only characters that print, ``limit`` of them at most.

    Whoever puts it into a page has to escape it.
    """
    line = "".join(c if c.isprintable() else " " for c in text[: 4 * limit])
    line = " ".join(line.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def why(text: str) -> str:
    """Why a job waits, for somebody who does not know the scheduler's words; "" when none is given.

    The words in the table, then the scheduler's own in brackets, so that support finds them.
    """
    reason, own = explain(text), shown(text)
    if reason is None:
        return own
    return f"{reason.words} ({own})"


def advice(text: str) -> str:
    """What the user can do about it, a sentence; empty when there is nothing."""
    reason = explain(text)
    return "" if reason is None else reason.advice
