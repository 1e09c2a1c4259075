"""How does the FirecREST stand-in work with a real Slurm? The ``slurm`` executor.

It runs the commands that FirecREST runs over SSH, as the user whose token it was: sbatch with the
script on standard input, sacct and squeue, scancel, scontrol, sacctmgr.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

from .cluster import (
    CancelError,
    Job,
    JobRequest,
    Metadata,
    SchedulerError,
    UnknownUserError,
    job_path,
)
from .sbatch import SubmitError, SubmitTimeoutError, check_environment, export_argument
from .slurm_text import (
    SACCT,
    SEPARATOR,
    SQUEUE,
    Row,
    accounted,
    fields,
    group_row,
    known,
    node_row,
    number,
    queue_job,
    table,
)

_DAYS = 7


def unix_users(names: Iterable[str]) -> dict[str, str]:
    """For each login the Unix user whom its jobs run as: its namesake, or whoever starts this.

    Only root can run jobs as others, and only as those who may execute this interpreter, for its
    Jupyter is theirs then.
    """
    own = pwd.getpwuid(os.geteuid()).pw_name
    return {name: name if os.geteuid() == 0 and _has_account(name) else own for name in names}


def _has_account(name: str) -> bool:
    try:
        account = pwd.getpwnam(name)
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", ""],
            cwd=account.pw_dir,
            user=account.pw_uid,
            group=account.pw_gid,
            extra_groups=os.getgrouplist(name, account.pw_gid),
            capture_output=True,
            check=False,
            timeout=20,
        )
    except (KeyError, OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


class SlurmExecutor:
    """The Slurm that this machine's commands talk to (``SLURM_CONF`` in the environment counts).

    As root, every command runs as the Unix user of the token's user: ``users`` maps the ones to
    the others where the names differ. Not as root, everything runs as oneself. The API calls every
    home ``/home/<user>``, wherever the account has it. ``path`` is the PATH of jobs; ``timeout``
    the seconds that one command may take.
    """

    def __init__(
        self,
        users: Mapping[str, str] | None = None,
        path: str | None = None,
        timeout: float = 20.0,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._users = dict(users or {})
        # Several may run as one: then only a submit tells whose a job is.
        shared = Counter(self._users.values())
        self._names = {unix: name for name, unix in self._users.items() if shared[unix] == 1}
        self._path = path or job_path()
        self._timeout = timeout
        given = os.environ if environ is None else environ
        # SLURM_JOB_* would make commands believe that they run inside a job.
        self._slurm_env = {"SLURM_CONF": given["SLURM_CONF"]} if "SLURM_CONF" in given else {}
        self._lock = threading.Lock()
        self._submitted: dict[str, str] = {}

    # -- commands --------------------------------------------------------------------------

    def _account(self, user: str | None) -> pwd.struct_passwd:
        if user is None or os.geteuid() != 0:
            return pwd.getpwuid(os.geteuid())
        try:
            return pwd.getpwnam(self._users.get(user, user))
        except KeyError as error:
            raise UnknownUserError(user) from error

    def _login(self, account: pwd.struct_passwd) -> dict[str, str]:
        return {
            "HOME": account.pw_dir,
            "USER": account.pw_name,
            "LOGNAME": account.pw_name,
            "SHELL": account.pw_shell,
            "PATH": self._path,
            "LANG": "C.UTF-8",
            **self._slurm_env,
        }

    def _command(
        self,
        user: str | None,
        command: Sequence[str],
        data: bytes = b"",
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command as ``user`` (None: as oneself). Raises subprocess.TimeoutExpired."""
        account = self._account(user)
        identity: dict[str, Any] = {}
        if os.geteuid() == 0 and account.pw_uid != 0:
            groups = os.getgrouplist(account.pw_name, account.pw_gid)
            identity = {
                "user": account.pw_uid,
                "group": account.pw_gid,
                "extra_groups": groups,
                "umask": 0o022,
            }
        program = shutil.which(command[0]) or command[0]
        return subprocess.run(
            list(command),
            # Named by its path, called by its name: messages begin with the latter.
            executable=program,
            input=data,
            capture_output=True,
            env=self._login(account) if env is None else dict(env),
            cwd=account.pw_dir if os.path.isdir(account.pw_dir) else "/",
            timeout=self._timeout,
            check=False,
            **identity,
        )

    def run(
        self, user: str, command: Sequence[str], data: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a file command; the file system itself decides what ``user`` may."""
        env = {"PATH": os.defpath, "LC_ALL": "C"}
        real = [self._real(user, word) if word.startswith("/") else word for word in command]
        return self._command(user, real, data, env)

    def _real(self, user: str, path: str) -> str:
        """What the API's ``path`` is on this machine; a relative one is below the home."""
        home, parts = self._account(user).pw_dir, PurePosixPath(path).parts
        if parts[:3] == ("/", "home", user):
            return os.path.join(home, *parts[3:])
        return os.path.join(home, path)

    def _ask(self, user: str | None, *command: str) -> str:
        """What a query prints. Raises SchedulerError."""
        env = self._login(self._account(user)) | {"SLURM_TIME_FORMAT": "%s"}
        try:
            done = self._command(user, command, env=env)
        except subprocess.TimeoutExpired as error:
            raise SchedulerError("Command execution timeout limit exceeded.") from error
        if done.returncode:
            text = done.stderr.decode(errors="replace")
            raise SchedulerError(
                f"Unexpected Slurm command response. exit_status:{done.returncode} std_err:{text}"
            )
        return done.stdout.decode(errors="replace")

    # -- jobs ------------------------------------------------------------------------------

    def submit(self, user: str, request: JobRequest) -> str:
        """Hand the script to sbatch. Raises the errors of :mod:`.sbatch`."""
        if not request.script:
            raise SubmitTimeoutError
        login = self._login(self._account(user))
        script = request.script
        if request.directives:
            check_environment(request.env)
            export, env = export_argument(request.env), login
        else:
            # As slurmrestd: no directives, no login environment, exact values.
            script = re.sub(r"(?m)^#SBATCH", "# SBATCH", script)
            given = {name: value for name, value in request.env.items() if value}
            export, env = "ALL", given | self._slurm_env
        options = {
            "chdir": self._real(user, request.working_directory).rstrip("/"),
            "export": export,
            "job-name": request.name or (None if request.directives else "allocation"),
            "account": request.account,
            "partition": request.partition,
            "reservation": request.reservation,
            "constraint": request.constraints,
            "output": request.output,
            "error": request.error,
        }
        words = [f"--{name}={value}" for name, value in options.items() if value is not None]
        try:
            done = self._command(user, ["sbatch", *words], script.encode(), env)
        except subprocess.TimeoutExpired as error:
            raise SubmitTimeoutError from error
        found = re.search(rb"Submitted batch job (\d+)", done.stdout)
        if done.returncode or found is None:
            raise SubmitError(done.stderr.decode(errors="replace"), done.returncode)
        job_id = found[1].decode()
        with self._lock:
            self._submitted[job_id] = user
        return job_id

    def jobs(self, viewer: str, job_id: str | None = None) -> list[Job]:
        """sacct's rows and squeue's; of two, squeue's wins if it says PENDING, as in FirecREST.

        A job that ended before sacct has heard of it is in neither for a moment. Without slurmdbd
        squeue's have to do. A list looks back seven days.
        """
        queued = {row["JobID"]: queue_job(row) for row in self._squeue(viewer, job_id)}
        try:
            recorded = {job.id: job for job in accounted(self._sacct(viewer, job_id))}
        except SchedulerError:
            if self._accounting:
                raise
            recorded = {}
        found = recorded | {
            key: job for key, job in queued.items() if job.state == "PENDING" or key not in recorded
        }
        return [replace(job, user=self._token_user(job)) for job in found.values()]

    def _token_user(self, job: Job) -> str:
        with self._lock:
            submitter = self._submitted.get(job.id)
        return submitter or self._names.get(job.user, job.user)

    def _sacct(self, viewer: str, job_id: str | None) -> list[Row]:
        since = int(time.time()) - _DAYS * 86_400
        which = [f"--jobs={job_id}"]
        if job_id is None:
            which = ["--allusers", time.strftime("--starttime=%FT%T", time.localtime(since))]
        text = self._ask(
            viewer,
            "sacct",
            "--noheader",
            "--parsable2",
            f"--delimiter={SEPARATOR}",
            f"--format={','.join(SACCT)}",
            *which,
        )
        return table(text, SACCT)

    def _squeue(self, viewer: str, job_id: str | None) -> list[Row]:
        states = ["--states=all"] if not self._accounting else []
        which = [] if job_id is None else [f"--jobs={job_id}"]
        layout = SEPARATOR.join(SQUEUE.values())
        try:
            text = self._ask(
                viewer, "squeue", "--noheader", "--all", f"--format={layout}", *states, *which
            )
        except SchedulerError as error:
            # What slurmctld has already forgotten is an error for squeue, but not for us.
            if "Invalid job id" in str(error):
                return []
            raise
        return table(text, list(SQUEUE))

    def metadata(self, viewer: str, job_id: str, operator: bool) -> Metadata | None:
        """What slurmctld still knows; the script as far as it shows it to ``viewer``."""
        try:
            shown = fields(self._ask(viewer, "scontrol", "show", "job", "--oneliner", job_id))
        except SchedulerError:
            return None
        try:
            script = self._ask(viewer, "scontrol", "write", "batch_script", job_id, "-")
        except SchedulerError:
            script = ""
        return Metadata(job_id, script, shown.get("StdOut", ""), shown.get("StdErr", ""))

    def cancel(self, user: str, job_id: str, operator: bool) -> None:
        """scancel as ``user``: Slurm itself knows who is an operator. Raises CancelError."""
        try:
            done = self._command(user, ["scancel", "--verbose", job_id])
        except subprocess.TimeoutExpired as error:
            raise SchedulerError("Command execution timeout limit exceeded.") from error
        text = done.stderr.decode(errors="replace")
        failed = re.search(r"Kill job error on job id \S+: (.+)", text)
        if failed or done.returncode:
            reason = failed[1] if failed else text.strip()
            raise CancelError(reason, done.returncode)

    def stop(self) -> None:
        """Cancel what was submitted through this executor and may still run."""
        with self._lock:
            submitted, self._submitted = self._submitted, {}
        for job_id, user in submitted.items():
            self._command(user, ["scancel", "--quiet", job_id])

    # -- the cluster -----------------------------------------------------------------------

    @cached_property
    def _config(self) -> dict[str, str]:
        lines = self._ask(None, "scontrol", "show", "config").splitlines()
        pairs = (line.partition("=") for line in lines if "=" in line)
        return {name.strip(): value.strip() for name, _, value in pairs}

    @property
    def _accounting(self) -> bool:
        return self._config.get("AccountingStorageType", "").endswith("slurmdbd")

    @property
    def cluster(self) -> str:
        """Slurm's ClusterName."""
        return self._config.get("ClusterName", "")

    @property
    def version(self) -> str:
        """Slurm's version, as its controller tells it."""
        return self._config.get("SLURM_VERSION", "")

    def nodes(self) -> list[dict[str, Any]]:
        """Nodes as scontrol describes them; ``address`` is NodeAddr."""
        text = self._ask(None, "scontrol", "show", "node", "--oneliner")
        return [node_row(fields(line)) for line in text.splitlines() if line.strip()]

    def partitions(self, viewer: str) -> list[dict[str, Any]]:
        """All partitions but hidden ones, those of other groups and accounts included."""
        text = self._ask(viewer, "scontrol", "--all", "show", "partition", "--oneliner")
        rows = [fields(line) for line in text.splitlines() if "PartitionName=" in line]
        return [
            {
                "name": row["PartitionName"],
                "cpus": number(row.get("TotalCPUs")) or 0,
                "totalNodes": number(row.get("TotalNodes")) or 0,
                "partition": row.get("State", ""),
            }
            for row in rows
            if row.get("Hidden") != "YES"
        ]

    def reservations(self, viewer: str) -> list[dict[str, Any]]:
        """The reservations that scontrol shows them: with PrivateData, only their own."""
        text = self._ask(viewer, "scontrol", "show", "reservation", "--oneliner")
        rows = [fields(line) for line in text.splitlines() if "ReservationName=" in line]
        return [
            {
                "name": row["ReservationName"],
                "nodeList": row.get("Nodes", ""),
                "endTime": number(row.get("EndTime")),
                "startTime": number(row.get("StartTime")),
                "features": known(row.get("Features")),
                "state": row.get("State", "").lower(),
            }
            for row in rows
        ]

    def userinfo(self, user: str) -> dict[str, Any]:
        """Unix identity, and the associations that sacctmgr knows."""
        account = self._account(user)
        groups = os.getgrouplist(account.pw_name, account.pw_gid)
        layout = ("User", "DefaultAccount", "Account")
        try:
            text = self._ask(
                user,
                *("sacctmgr", "--noheader", "--parsable2", "show", "user", account.pw_name),
                *("withassoc", f"format={','.join(layout)}"),
            )
        except SchedulerError:
            if self._accounting:
                raise
            text = ""
        rows = table(text.replace("|", SEPARATOR), layout)
        default = {row["Account"]: row["Account"] == row["DefaultAccount"] for row in rows}
        return {
            "user": {"id": str(account.pw_uid), "name": self._names.get(account.pw_name, user)},
            "group": group_row(account.pw_gid),
            "groups": [group_row(gid) for gid in groups],
            "accounts": [{"name": name, "default": flag} for name, flag in default.items()],
        }
