"""Does every word a scheduler has for a job's state mean what it should?"""

from __future__ import annotations

import pytest

from firecrestspawner.states import JobState

#: https://slurm.schedmd.com/job_state_codes.html, squeue(1), sacct(1)
SLURM_STATES = {
    "BOOT_FAIL": JobState.NODE_FAIL,
    "CANCELLED": JobState.CANCELLED,
    "COMPLETED": JobState.COMPLETED,
    "DEADLINE": JobState.TIMEOUT,
    "FAILED": JobState.FAILED,
    "NODE_FAIL": JobState.NODE_FAIL,
    "OUT_OF_MEMORY": JobState.OUT_OF_MEMORY,
    "PENDING": JobState.PENDING,
    "PREEMPTED": JobState.PREEMPTED,
    "RUNNING": JobState.RUNNING,
    "SUSPENDED": JobState.SUSPENDED,
    "TIMEOUT": JobState.TIMEOUT,
}
SLURM_FLAGS = {
    "COMPLETING": JobState.RUNNING,
    "CONFIGURING": JobState.PENDING,
    "EXPEDITING": JobState.PENDING,
    "LAUNCH_FAILED": JobState.UNKNOWN,
    "POWER_UP_NODE": JobState.PENDING,
    "RECONFIG_FAIL": JobState.UNKNOWN,
    "REQUEUED": JobState.PENDING,
    "REQUEUE_FED": JobState.PENDING,
    "REQUEUE_HOLD": JobState.PENDING,
    "RESIZING": JobState.RUNNING,
    "RESV_DEL_HOLD": JobState.PENDING,
    "REVOKED": JobState.UNKNOWN,
    "SIGNALING": JobState.RUNNING,
    "SPECIAL_EXIT": JobState.PENDING,
    "STAGE_OUT": JobState.RUNNING,
    "STOPPED": JobState.SUSPENDED,
    "UPDATE_DB": JobState.UNKNOWN,
}
#: The job_state attribute, PBS Professional Reference Guide; C is Torque's.
PBS_LETTERS = {
    **dict.fromkeys("QHWT", JobState.PENDING),
    **dict.fromkeys("RBE", JobState.RUNNING),
    **dict.fromkeys("SU", JobState.SUSPENDED),
    **dict.fromkeys("FXC", JobState.COMPLETED),
    "M": JobState.UNKNOWN,
}
REQUEUE = ["REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT"]


@pytest.mark.parametrize(
    ("text", "state"), [*SLURM_STATES.items(), *SLURM_FLAGS.items(), *PBS_LETTERS.items()]
)
def test_every_word_of_a_scheduler_is_told_apart(text: str, state: JobState) -> None:
    """R1."""
    assert JobState.parse(text) is state


def test_only_what_ended_has_ended() -> None:
    """R1."""
    ended = {text for text, state in SLURM_STATES.items() if state.terminal}
    assert ended == set(SLURM_STATES) - {"PENDING", "RUNNING", "SUSPENDED"}
    assert not any(state.terminal for state in SLURM_FLAGS.values())
    assert {text for text, state in PBS_LETTERS.items() if state.terminal} == set("FXC")


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("CANCELLED by 1001", JobState.CANCELLED),
        ("CANCELLED+", JobState.CANCELLED),
        ("running", JobState.RUNNING),
        ("RUNNING,COMPLETING", JobState.RUNNING),
        ("COMPLETING+RUNNING", JobState.RUNNING),
        ("PENDING|LAUNCH_FAILED", JobState.PENDING),
        ("RUNNING RESIZING", JobState.RUNNING),
    ],
)
def test_of_several_words_the_state_decides(text: str, state: JobState) -> None:
    assert JobState.parse(text) is state


@pytest.mark.parametrize("flag", REQUEUE)
@pytest.mark.parametrize("state", SLURM_STATES)
def test_what_goes_back_into_the_queue_is_alive(state: str, flag: str) -> None:
    """R1: whichever of the two is named first."""
    assert JobState.parse(f"{state},{flag}") is JobState.PENDING
    assert JobState.parse(f"{flag}+{state}") is JobState.PENDING


@pytest.mark.parametrize("state", [text for text, state in SLURM_STATES.items() if state.terminal])
def test_what_is_still_being_cleaned_up_is_not_gone(state: str) -> None:
    """R1, R7: its processes may still run, and its nodes are not free."""
    assert JobState.parse(f"{state},COMPLETING") is JobState.RUNNING
    assert JobState.parse(f"COMPLETING,{state}") is JobState.RUNNING


@pytest.mark.parametrize("text", ["", "NEW_IN_NEXT_SLURM", "None", "by 1001", "Z"])
def test_what_is_unknown_is_alive(text: str) -> None:
    """R1."""
    assert JobState.parse(text) is JobState.UNKNOWN
    assert not JobState.UNKNOWN.terminal


def test_only_a_lost_node_and_a_preemption_may_be_followed_by_another_run() -> None:
    assert {state for state in JobState if state.may_run_again} == {
        JobState.NODE_FAIL,
        JobState.PREEMPTED,
    }
