"""Does the demo's local cluster queue, run, limit and end jobs as Slurm does?"""

from __future__ import annotations

import itertools
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from firecrestspawner.demo import processes
from firecrestspawner.demo.executors import (
    CancelError,
    Job,
    JobRequest,
    LocalExecutor,
    SubmitError,
    UnknownUserError,
)
from firecrestspawner.demo.local_nodes import hostlist
from firecrestspawner.demo.sbatch import (
    ConnectionResetBySizeError,
    SubmitTimeoutError,
    check_environment,
    exported,
    parse_directives,
    parse_time,
)

pytestmark = pytest.mark.unit


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LocalExecutor]:
    executor = LocalExecutor(tmp_path, slots=2, kill_wait=0.3)
    yield executor
    executor.stop()


def request(script: str = "sleep 60", **fields: object) -> JobRequest:
    fields = {"working_directory": "/home/alice", **fields}
    return JobRequest(script=f"#!/bin/bash\n{script}\n", **fields)  # type: ignore[arg-type]


def over(job: Job) -> bool:
    return job.end is not None


def one(cluster: LocalExecutor, job_id: str) -> Job:
    (job,) = cluster.jobs("alice", job_id)
    return job


def output(cluster: LocalExecutor, job_id: str) -> str:
    cluster.wait_until(job_id, over)
    return (cluster.home_of("alice") / f"slurm-{job_id}.out").read_text()


def eventually(met: Callable[[], bool], what: str, within: float = 10.0) -> None:
    deadline = time.monotonic() + within
    pause = threading.Event()
    while not met():
        assert time.monotonic() < deadline, what
        pause.wait(0.01)


# -- running ---------------------------------------------------------------------------------


def test_a_job_gets_a_clean_environment_and_its_own(
    cluster: LocalExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_DEMO", "hush")
    job_id = cluster.submit("alice", request("env", env={"GREETING": "good day"}, name="greet"))
    env = dict(line.split("=", 1) for line in output(cluster, job_id).splitlines())
    home = str(cluster.home_of("alice"))
    assert "SECRET_OF_THE_DEMO" not in env
    assert (env["HOME"], env["PWD"], env["USER"], env["LOGNAME"]) == (home, home, "alice", "alice")
    assert (env["GREETING"], env["SLURM_JOB_ID"], env["SLURM_JOB_NAME"]) == (
        "good day",
        job_id,
        "greet",
    )
    assert env["SLURMD_NODENAME"] == env["SLURM_JOB_NODELIST"] == "nid001"
    assert int(env["SLURM_JOB_END_TIME"]) == (one(cluster, job_id).start or 0) + 3600


def test_over_rest_directives_and_the_login_environment_do_not_count(
    cluster: LocalExecutor,
) -> None:
    script = "#SBATCH -J inscript -t 1 --nosuchoption\necho name=$SLURM_JOB_NAME home=$HOME a=$A"
    job_id = cluster.submit("alice", request(script, directives=False, env={"A": "x,y", "B": ""}))
    assert output(cluster, job_id) == "name=allocation home= a=x,y\n"
    assert one(cluster, job_id).limit == 3600


def test_the_environment_goes_through_sbatch_as_it_does_in_firecrest(
    cluster: LocalExecutor,
) -> None:
    job_id = cluster.submit("alice", request("echo $A-$X", env={"A": "a,X=1"}))
    assert output(cluster, job_id) == "a-1\n"


def test_output_goes_where_the_directives_say(cluster: LocalExecutor) -> None:
    script = (
        "#SBATCH -o %x-%j.log --error=err-%u\n#SBATCH --job-name 'two words'\necho o; echo e >&2"
    )
    job_id = cluster.submit("alice", request(script))
    cluster.wait_until(job_id, over)
    home = cluster.home_of("alice")
    assert (home / f"two words-{job_id}.log").read_text() == "o\n"
    assert (home / "err-alice").read_text() == "e\n"
    found = cluster.metadata("alice", job_id, False)
    assert found is not None
    assert (found.output, found.error) == (
        f"/home/alice/two words-{job_id}.log",
        "/home/alice/err-alice",
    )


def test_homes_and_outputs_are_private(cluster: LocalExecutor) -> None:
    job_id = cluster.submit("alice", request("true"))
    cluster.wait_until(job_id, over)
    home = cluster.home_of("alice")
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert stat.S_IMODE((home / f"slurm-{job_id}.out").stat().st_mode) == 0o600


def test_a_script_never_has_a_name_in_the_file_system(cluster: LocalExecutor) -> None:
    """S1: the ticket in a script cannot be read from a file by other users."""
    job_id = cluster.submit("alice", request("echo ticket-789 > seen; sleep 60"))
    seen = cluster.home_of("alice") / "seen"
    eventually(lambda: seen.exists() and seen.read_text() != "", "the job is running")
    files = [path for path in cluster.root.rglob("*") if path.is_file() and path != seen]
    assert files != []
    assert all("ticket-789" not in path.read_text() for path in files)
    assert "ticket-789" not in repr(cluster.metadata("alice", job_id, True))


@pytest.mark.parametrize(
    ("script", "state", "code", "number"),
    [
        ("true", "COMPLETED", 0, 0),
        ("exit 3", "FAILED", 3, 0),
        ("kill -9 $$", "FAILED", 0, 9),
        ("#SBATCH -t 0:01\nsleep 60", "TIMEOUT", 0, 0),
    ],
)
def test_a_job_s_end_is_told_as_slurm_tells_it(
    script: str, state: str, code: int, number: int, cluster: LocalExecutor
) -> None:
    job = cluster.wait_until(cluster.submit("alice", request(script)), over)
    assert (job.state, job.exit_code, job.signal) == (state, code, number)


def test_a_missing_working_directory_fails_the_job_not_the_submit(cluster: LocalExecutor) -> None:
    job_id = cluster.submit("alice", request(working_directory="/home/alice/nowhere"))
    job = cluster.wait_until(job_id, over)
    assert (job.state, job.exit_code, job.signal) == ("FAILED", 0, 53)


# -- the queue -------------------------------------------------------------------------------


def test_jobs_wait_for_slots_first_in_first_out(cluster: LocalExecutor) -> None:
    first, second, third, fourth = (cluster.submit("alice", request()) for _ in range(4))
    assert [one(cluster, job).state for job in (first, second)] == ["RUNNING"] * 2
    assert {one(cluster, first).nodes, one(cluster, second).nodes} == {"nid001", "nid002"}
    assert [one(cluster, job).reason for job in (third, fourth)] == ["Resources", "Priority"]
    cluster.cancel("alice", first, False)
    cluster.wait_until(third, lambda job: job.state == "RUNNING")
    assert (one(cluster, fourth).state, one(cluster, fourth).reason) == ("PENDING", "Resources")


def test_a_held_queue_starts_nothing_until_it_is_released(tmp_path: Path) -> None:
    cluster = LocalExecutor(tmp_path, hold=True, kill_wait=0.3)
    job_id = cluster.submit("alice", request("true"))
    assert (one(cluster, job_id).state, one(cluster, job_id).nodes) == ("PENDING", "")
    cluster.release()
    assert cluster.wait_until(job_id, over).state == "COMPLETED"
    cluster.hold()
    again = cluster.submit("alice", request("true"))
    assert one(cluster, again).reason == "Resources"
    cluster.stop()


def test_a_job_submitted_with_hold_waits_for_its_user(cluster: LocalExecutor) -> None:
    job_id = cluster.submit("alice", request("#SBATCH --hold --no-requeue\ntrue"))
    assert one(cluster, job_id).reason == "JobHeldUser"
    cluster.release(job_id)
    assert cluster.wait_until(job_id, over).state == "COMPLETED"


def test_a_job_that_never_fits_stays_pending_and_blocks_nobody(cluster: LocalExecutor) -> None:
    giant = cluster.submit("alice", request("#SBATCH -N 99"))
    assert (one(cluster, giant).state, one(cluster, giant).reason) == ("PENDING", "PartitionConfig")
    assert one(cluster, cluster.submit("alice", request())).state == "RUNNING"


def test_nodes_can_be_replaced(cluster: LocalExecutor) -> None:
    cluster.set_nodes([("other", "127.0.0.9")])
    assert [(node["name"], node["address"]) for node in cluster.nodes()] == [("other", "127.0.0.9")]
    assert one(cluster, cluster.submit("alice", request())).nodes == "other"


# -- ends ------------------------------------------------------------------------------------


def stubborn(cluster: LocalExecutor) -> tuple[str, list[psutil.Process]]:
    """A job that ignores SIGTERM, with a grandchild in a session of its own."""
    loop = "while :; do sleep 1; done"
    grandchild = f"trap '' TERM; echo up > up; {loop}"
    script = f"trap '' TERM\n(setsid sh -c \"{grandchild}\") &\n{loop}"
    job_id = cluster.submit("alice", request(script))
    up = cluster.home_of("alice") / "up"
    eventually(up.exists, "the job is up")
    started = processes.find(cluster._jobs[job_id].mark)
    assert len(started) >= 3
    return job_id, started


def test_cancel_counts_at_once_and_ends_every_process_in_time(cluster: LocalExecutor) -> None:
    job_id, started = stubborn(cluster)
    cluster.cancel("alice", job_id, False)
    assert one(cluster, job_id).state == "CANCELLED by 1001"
    eventually(lambda: not any(map(alive, started)), "all processes have ended")


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_stop_leaves_no_process(cluster: LocalExecutor) -> None:
    _, started = stubborn(cluster)
    cluster.stop()
    assert not any(map(alive, started))
    assert not processes.find(cluster._marker)


def test_what_a_finished_script_leaves_running_is_ended(cluster: LocalExecutor) -> None:
    job_id = cluster.submit("alice", request("setsid sleep 60 &\necho $! > pid"))
    cluster.wait_until(job_id, over)
    pid = int((cluster.home_of("alice") / "pid").read_text())
    eventually(lambda: not running(pid), "the rest has ended")
    assert one(cluster, job_id).state == "COMPLETED"


def running(pid: int) -> bool:
    try:
        return alive(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return False


def test_job_ids_that_begin_alike_are_not_confused(cluster: LocalExecutor) -> None:
    cluster._ids = itertools.chain([1, 11])  # type: ignore[assignment]
    first, eleventh = (cluster.submit("alice", request()) for _ in range(2))
    assert (first, eleventh) == ("1", "11")
    cluster.cancel("alice", first, False)
    assert cluster._jobs[first].ended.wait(10)
    assert one(cluster, eleventh).state == "RUNNING"
    assert processes.find(cluster._jobs[eleventh].mark)


def test_only_owner_and_operator_cancel(cluster: LocalExecutor) -> None:
    job_id = cluster.submit("alice", request())
    with pytest.raises(CancelError, match="Access/permission denied"):
        cluster.cancel("bob", job_id, False)
    cluster.cancel("bob", job_id, True)
    with pytest.raises(CancelError, match="already completing"):
        cluster.cancel("alice", job_id, False)
    with pytest.raises(CancelError, match="Invalid job id"):
        cluster.cancel("alice", "999", True)


def test_a_pending_job_is_cancelled_without_ever_running(cluster: LocalExecutor) -> None:
    job_id = cluster.submit("alice", request("#SBATCH -H\ntouch ran"))
    cluster.cancel("alice", job_id, False)
    cluster.release(job_id)
    assert (one(cluster, job_id).start, one(cluster, job_id).nodes) == (None, "None assigned")
    assert not (cluster.home_of("alice") / "ran").exists()


def test_a_stopped_process_is_ended_too(cluster: LocalExecutor) -> None:
    job_id = cluster.submit("alice", request("kill -STOP $$"))
    job = cluster._jobs[job_id]

    def stopped() -> bool:
        return [each.status() for each in processes.find(job.mark)] == [psutil.STATUS_STOPPED]

    eventually(stopped, "it has stopped itself")
    cluster.cancel("alice", job_id, False)
    assert job.ended.wait(10)
    assert processes.find(job.mark) == []


# -- users -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "..", "a/b", "../x", ".hidden", "a\nb", "x y"])
def test_a_username_that_leads_out_of_the_homes_is_nobody(
    name: str, cluster: LocalExecutor
) -> None:
    with pytest.raises(UnknownUserError):
        cluster.submit(name, request("true"))


def test_files_in_another_s_home_are_denied(cluster: LocalExecutor) -> None:
    (cluster.home_of("alice") / "secret").write_text("s")
    assert cluster.run("alice", ["cat", "/home/alice/secret"]).stdout == b"s"
    refused = cluster.run("bob", ["cat", "/home/alice/secret"])
    assert (refused.returncode, refused.stdout) == (1, b"")


# -- what sbatch says --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5", 300),
        ("2:30", 150),
        ("1:00:00", 3600),
        ("1-0", 86_400),
        ("1-2:3", 93_780),
        ("0-0:0:7", 7),
    ],
)
def test_the_six_notations_of_a_time_limit(text: str, seconds: int) -> None:
    assert parse_time(text) == seconds


def test_directives_end_at_the_first_command() -> None:
    found = parse_directives("#!/bin/sh\n# a comment\n\n#SBATCH -J a\ntrue\n#SBATCH -J b\n")
    assert found.name == "a"


@pytest.mark.parametrize(
    ("line", "status"),
    [("--nosuch=1", 255), ("-z", 255), ("-t soon", 255), ("-N many", 255), ("-J", 255)],
)
def test_a_bad_option_is_refused_as_sbatch_does(line: str, status: int) -> None:
    with pytest.raises(SubmitError) as caught:
        parse_directives(f"#!/bin/sh\n#SBATCH {line}\n")
    assert caught.value.exit_status == status


@pytest.mark.parametrize(
    ("sent", "got"),
    [
        ("a b", {"K": "a b", "Z": "end"}),
        ("a,b", {"K": "a", "Z": "end"}),
        ("a,X=1", {"K": "a", "X": "1", "Z": "end"}),
        (",a", {"K": "", "Z": "end"}),
        ('"a,b"', {"K": '"a,b"', "Z": "end"}),
        ("it's", {"K": "it's,Z=end"}),
        ('{"a": "b", "c": 1}', {"K": '{"a": "b"', "Z": "end"}),
        ("a\\,b", {"K": "a\\", "Z": "end"}),
        ("$(id)\n`x`;|", {"K": "$(id)\n`x`;|", "Z": "end"}),
    ],
)
def test_values_are_mangled_as_was_measured(sent: str, got: dict[str, str]) -> None:
    assert exported({"K": sent, "Z": "end"}) == got


def test_a_long_environment_is_refused_and_a_very_long_one_breaks_the_connection() -> None:
    check_environment({"K": "x" * 130_000})
    with pytest.raises(SubmitError, match="Argument list too long"):
        check_environment({"K": "x" * 200_000})
    with pytest.raises(ConnectionResetBySizeError):
        check_environment({"K": "x" * 1_000_000})


@pytest.mark.parametrize("script", ["echo hi\n", "#!/bin/sh\r\ntrue\r\n", "#!/bin/sh\n\0"])
def test_what_is_no_script_is_refused(script: str, cluster: LocalExecutor) -> None:
    with pytest.raises(SubmitError):
        cluster.submit("alice", JobRequest("/home/alice", script))
    assert cluster.jobs("alice") == []


def test_without_a_script_sbatch_waits_for_ever(cluster: LocalExecutor) -> None:
    with pytest.raises(SubmitTimeoutError):
        cluster.submit("alice", JobRequest("/home/alice", ""))


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["nid001"], "nid001"),
        (["nid001", "nid002", "nid003"], "nid[001-003]"),
        (["nid001", "nid003", "nid004"], "nid[001,003-004]"),
        (["a1", "b2"], "a1,b2"),
    ],
)
def test_several_nodes_are_written_as_slurm_writes_them(names: list[str], text: str) -> None:
    assert hostlist(names) == text
