"""Does every reason a scheduler gives mean something to somebody who waits?"""

from __future__ import annotations

import pytest

from firecrestspawner.reasons import SHOWN, advice, explain, shown, why

#: The words that a pending or failed job can have (Slurm's job_state_reason.c, 25.05).
SINGLE = """
    Prolog Priority Dependency Resources PartitionNodeLimit PartitionTimeLimit PartitionDown
    PartitionInactive JobHeldAdmin JobHeldUser BeginTime Licenses AssociationJobLimit
    AssociationResourceLimit AssociationTimeLimit Reservation ReqNodeNotAvail FrontEndDown
    SchedDefer NodeDown BadConstraints SystemFailure JobLaunchFailure NonZeroExitCode RaisedSignal
    TimeLimit InactiveLimit InvalidAccount InvalidQOS QOSUsageThreshold QOSJobLimit
    QOSResourceLimit QOSTimeLimit Cleaning QOSNotAllowed AccountNotAllowed DependencyNeverSatisfied
    JobHoldMaxRequeue JobArrayTaskLimit BurstBufferResources BurstBufferStageIn
    BurstBufferOperation PowerNotAvail PowerReserved DeadLine PartitionConfig AccountingPolicy
    FedJobLock OutOfMemory MaxMemPerLimit ReservationDeleted ReservationInvalid Constraints
"""
UNITS = (
    *("Cpu", "CPU", "Mem", "Memory", "Node", "Energy", "GRES", "License", "BB", "Billing"),
    "Unknown",
)
FAMILIES = [
    word.replace("*", unit)
    for unit in UNITS
    for word in (
        *("AssocGrp*", "AssocGrp*Limit", "AssocGrp*Minutes", "AssocGrp*RunMinutes"),
        *("AssocMax*PerJob", "AssocMax*PerNode", "AssocMax*MinutesPerJob", "Max*PerAccount"),
        *("QOSGrp*", "QOSGrp*Limit", "QOSGrp*Minutes", "QOSGrp*RunMinutes", "QOSMin*"),
        *("QOSMax*PerJob", "QOSMax*PerNode", "QOSMax*PerUser", "QOSMax*MinutesPerJob"),
    )
]
OTHERS = """
    AssocGrpJobsLimit AssocGrpSubmitJobsLimit AssocGrpWallLimit AssocMaxJobsLimit
    AssocMaxSubmitJobLimit AssocMaxWallDurationPerJobLimit AssocMaxCpuMinutesPerJobLimit
    QOSGrpJobsLimit QOSGrpSubmitJobsLimit QOSGrpWallLimit QOSMaxJobsPerUserLimit
    QOSMaxSubmitJobPerUserLimit QOSMaxWallDurationPerJobLimit QOSMinCpuNotSatisfied
    QOSMaxCpuMinutesPerJobLimit MaxJobsPerAccount MaxSubmitJobsPerAccount
"""
SENTENCES = [
    "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions",
    "Job's account not permitted to use this partition (bobonly allows proj2 not proj1)",
    "Job's QOS not permitted to use this partition (h200 allows big not normal)",
    "ReqNodeNotAvail, Reserved for maintenance",
    "ReqNodeNotAvail, UnavailableNodes:nid[001-004]",
    "Not Running: Insufficient amount of resource: ncpus (R: 64 A: 2 T: 64)",
    "Not Running: Server job limit reached for user alice",
    "Not Running: Queue interactive job limit reached for user alice",
    "Not Running: would exceed group hpc's limit on resource ncpus in complex",
    "Not Running: Job would conflict with reservation or top job",
    "Not Running: Queue not started.",
    "Can Never Run: Insufficient amount of resource: mem",
]


@pytest.mark.parametrize("text", [*SINGLE.split(), *FAMILIES, *OTHERS.split(), *SENTENCES])
def test_every_known_reason_has_words_and_what_will_not_pass_has_advice(text: str) -> None:
    reason = explain(text)
    assert reason is not None
    assert reason.words and not reason.words.endswith(".")
    assert reason.passes or "cancel the start" in reason.advice
    assert not reason.advice or reason.advice.endswith(".")


@pytest.mark.parametrize(
    ("text", "word", "passes"),
    [
        ("Priority", "other jobs", True),
        ("Resources", "no nodes are free", True),
        ("QOSMaxJobsPerUserLimit", "one user may", True),
        ("AssocMaxJobsLimit", "one user may", True),
        ("AssocGrpBillingMinutes", "used up", False),
        ("AssocGrpCPURunMinutesLimit", "for now", True),
        ("AssocGrpCpuLimit", "share a limit", True),
        ("MaxGRESPerAccount", "share a limit", True),
        ("QOSMaxWallDurationPerJobLimit", "run time", False),
        ("QOSMaxCpuPerJobLimit", "more than one job", False),
        ("QOSMaxMemoryPerNode", "more than one job", False),
        ("QOSMinGRES", "less than a job", False),
        ("PartitionTimeLimit", "run time", False),
        ("PartitionConfig", "partition", False),
        ("PartitionDown", "partition", True),
        ("BadConstraints", "no node has", False),
        ("InvalidAccount", "account", False),
        ("Job's account not permitted to use this partition (a allows b)", "account", False),
        ("JobHeldUser", "held", False),
        ("JobHeldAdmin", "administrators", False),
        ("Dependency", "another job", True),
        ("DependencyNeverSatisfied", "failed", False),
        ("Reservation", "reservation", True),
        ("ReservationDeleted", "over", False),
        ("BeginTime", "later", True),
        ("Licenses", "licence", True),
        ("Not Running: Server job limit reached for user alice", "one user may", True),
        ("Not Running: would exceed group a's limit on resource b", "share a limit", True),
        ("Can Never Run: Insufficient amount of resource: mem", "no node has", False),
    ],
)
def test_a_reason_says_what_it_means(text: str, word: str, passes: bool) -> None:
    reason = explain(text)
    assert reason is not None
    assert word in reason.words
    assert reason.passes is passes


def test_every_reason_firecrest_was_seen_to_give_is_known() -> None:
    """All stateReasons in the exchanges that were recorded with two real servers."""
    seen = (
        *("AssocMaxJobsLimit", "BeginTime", "Dependency", "JobArrayTaskLimit", "JobHeldUser"),
        *("PartitionConfig", "PartitionDown", "PartitionTimeLimit", "Priority", "Reservation"),
        *("Resources", *SENTENCES[:2]),
    )
    assert [text for text in seen if explain(text) is None] == []


def test_the_schedulers_own_word_is_shown_too() -> None:
    assert why("Priority") == "other jobs come first (Priority)"


def test_what_nobody_knows_is_shown_as_it_is() -> None:
    assert why("ThePhaseOfTheMoon") == "ThePhaseOfTheMoon"
    assert advice("ThePhaseOfTheMoon") == "" and why("") == ""


def test_a_hostile_text_is_one_short_line() -> None:
    hostile = "Priority\n\x1b[31m\u202e<script>alert(1)</script>" + "x" * 100_000
    line = shown(hostile)
    assert len(line) == SHOWN and line.isprintable()
    assert len(why(hostile)) < 200


def test_who_has_no_other_job_is_told_what_to_do_about_a_users_limit() -> None:
    """One job alone may ask for more than its user may have in all: then nothing else ends."""
    for word in ("QOSMaxCpuPerUserLimit", "QOSMaxGRESPerUser", "QOSMaxMemoryPerUser"):
        assert advice(word).endswith("if you have none, ask for less.")
