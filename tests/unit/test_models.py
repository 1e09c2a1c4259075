"""Are jobs, tokens and secrets what they say?"""

from __future__ import annotations

import pickle

import pytest

from firecrestspawner.models import Job, JobState, Node, Secret, TokenSet

ROW = {
    "jobId": "3",
    "name": "hub",
    "user": "alice",
    "status": {"state": "RUNNING", "stateReason": "None", "exitCode": 0, "interruptSignal": 0},
    "time": {"elapsed": 6, "start": 1795410526, "end": None, "suspended": 0, "limit": 300},
    "nodes": "nid001",
    "partition": "normal",
    "account": "proj1",
}


def test_a_row_of_the_api_becomes_a_job() -> None:
    job = Job.from_api(ROW)
    assert job == Job(
        id="3", name="hub", user="alice", state=JobState.RUNNING, state_text="RUNNING",
        nodes="nid001", partition="normal", account="proj1",
        start=1795410526, limit=300, exit_code=0, signal=0,
    )  # fmt: skip


@pytest.mark.parametrize(
    "row", [None, [], "x", {}, {"jobId": "3"}, {"status": {}}, {"jobId": None, "status": {}}]
)
def test_a_row_that_is_no_job_is_an_error(row: object) -> None:
    with pytest.raises(ValueError, match="job"):
        Job.from_api(row)


def test_a_row_of_wrong_types_harms_nobody() -> None:
    job = Job.from_api({"jobId": 3, "status": {"state": ["X"]}, "time": 7, "nodes": None})
    assert job.state is JobState.UNKNOWN
    assert (job.id, job.nodes, job.start) == ("3", "", None)


@pytest.mark.parametrize(
    "odd",
    [10**400, 10**11, -(10**400), -5, 0, 1.5, float("nan"), "7", True],
    ids=lambda odd: str(odd)[:13],
)
def test_no_page_has_to_count_with_a_time_that_is_none(odd: object) -> None:
    """R10: a list may hold rows of another user's making, and the home page is of all servers."""
    job = Job.from_api({**ROW, "time": {"start": odd, "limit": odd, "end": odd}})
    assert (job.start, job.limit, job.end) == (None, None, None)


@pytest.mark.parametrize(
    ("state", "times", "left"),
    [
        ("RUNNING", {"elapsed": 6, "limit": 300}, 294),
        ("RUNNING", {"elapsed": 0, "limit": 300}, 300),
        ("RUNNING", {"elapsed": 400, "limit": 300}, 0),
        ("RUNNING", {"elapsed": -9, "limit": 300}, 300),
        ("RUNNING", {"elapsed": 6, "limit": None}, None),
        ("RUNNING", {"start": 1795410526, "limit": 300}, None),
        ("SUSPENDED", {"elapsed": 6, "limit": 300}, None),
        ("PENDING", {"elapsed": 0, "limit": 300}, None),
    ],
)
def test_the_time_left_is_what_the_scheduler_has_not_counted_yet(
    state: str, times: dict[str, int | None], left: int | None
) -> None:
    row = {**ROW, "status": {"state": state}, "time": times}
    assert Job.from_api(row).time_left == left


def test_that_time_passes_is_no_news_of_a_job() -> None:
    later = {**ROW, "time": {"elapsed": 60, "start": 1795410526, "limit": 300}}
    assert Job.from_api(ROW) == Job.from_api(later)


def test_a_secret_does_not_show_itself() -> None:
    """S1."""
    secret = Secret("hunter2")
    for shown in (repr(secret), str(secret), f"{secret}", f"{[secret]}", f"{secret!r:>20}"):
        assert "hunter2" not in shown
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    assert secret == Secret("hunter2")
    assert secret != Secret("hunter3")


def test_tokens_have_absolute_expiries() -> None:
    tokens = TokenSet.from_response(
        {
            "access_token": "a",
            "expires_in": 300,
            "refresh_token": "r",
            "refresh_expires_in": "1800",
        },
        now=1000.0,
    )
    assert (tokens.expires_at, tokens.refresh_expires_at) == (1300.0, 2800.0)
    assert not tokens.expires_soon(60, now=1239)
    assert tokens.expires_soon(60, now=1241)
    assert "'a'" not in repr(tokens)


def test_a_token_without_a_stated_life_is_taken_to_be_short_lived() -> None:
    assert TokenSet.from_response({"access_token": "a"}).expires_soon(1)


def test_what_a_refresh_leaves_out_is_kept() -> None:
    old = TokenSet.from_response(
        {"access_token": "a", "refresh_token": "r", "id_token": "i", "scope": "openid"}
    )
    new = TokenSet.from_response({"access_token": "b", "expires_in": 60}).kept_from(old)
    assert new.access_token == Secret("b")
    assert (new.refresh_token, new.id_token, new.scope) == (Secret("r"), Secret("i"), "openid")


@pytest.mark.parametrize("features", ["gpu,a100", ["gpu", "a100"]])
def test_a_node_has_its_features_over_ssh_and_over_rest(features: object) -> None:
    row = {"name": "nid001", "address": "10.1.0.1", "hostname": None, "features": features}
    assert Node.from_api(row) == Node("nid001", ("10.1.0.1",), ("gpu", "a100"))


@pytest.mark.parametrize("features", [None, 7, {"a": 1}])
def test_a_node_without_features_is_one_all_the_same(features: object) -> None:
    assert Node.from_api({"name": "nid001", "features": features}) == Node("nid001")


@pytest.mark.parametrize("row", [None, 7, "nid001", {}, {"name": None}])
def test_what_is_no_node_is_an_error(row: object) -> None:
    with pytest.raises(ValueError, match="node"):
        Node.from_api(row)
