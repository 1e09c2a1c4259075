"""What can a test do on the demo's site when a real Slurm runs its jobs, and see behind it?"""

from __future__ import annotations

import contextlib
import json
import pwd
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from firecrestspawner.demo.cluster import Job
from firecrestspawner.demo.issuer import DEFAULT_CLIENTS
from firecrestspawner.demo.slurm_executor import SlurmExecutor
from tests.journeys.site import Site, eventually
from tests.services.interpreter import Interpreter
from tests.services.slurm import Slurm
from tests.services.users import ALICE, BOB, OPERATOR, PATH

SERVICE = DEFAULT_CLIENTS[1].service_account
#: The issuer's users, and the Unix users that they are on the cluster.
UNIX = {"alice": ALICE, "bob": BOB, SERVICE: OPERATOR}

#: Accounting learns of things some seconds after the scheduler.
LAG = 20.0

# A server's name says how it is configured: each test writes that before it starts one.
_CONFIG = """
import json, pathlib

def configured(spawner):
    file = pathlib.Path("servers", spawner.name + ".json")
    for name, value in (json.loads(file.read_text()) if file.exists() else {}).items():
        setattr(spawner, name, value)

c.FirecRESTSpawner.option_fields = ["partition", "account", "reservation", "constraint"]
c.Spawner.pre_spawn_hook = configured
c.Spawner.poll_interval = 5
"""


class SlurmSite(Site):
    """The demo's site, the jobs of whose users run on ``slurm`` as Unix users of other names."""

    def __init__(self, slurm: Slurm, jupyter: Interpreter) -> None:
        self.slurm = slurm
        self.jupyter = jupyter
        executor = SlurmExecutor(UNIX, path=f"{jupyter.bin}:{PATH}", environ=slurm.env)
        super().__init__(executor=executor, extra_config=_CONFIG)

    def configure(self, server: str, **traits: Any) -> None:
        """Set the spawner's traits for all servers called ``server``."""
        folder = self.directory / "servers"
        folder.mkdir(exist_ok=True)
        (folder / f"{server}.json").write_text(json.dumps(traits))

    # -- jobs --------------------------------------------------------------------------------

    def jobs(self, user: str | None = None) -> list[Job]:
        """All jobs as the service account sees them: some seconds late."""
        return [job for job in self.executor.jobs(SERVICE) if user in (None, job.user)]

    def job_id(self, user: str, server: str = "") -> str:
        """The number of the job of a user's server, once the Hub knows it."""
        return str(eventually(lambda: self.state(user, server).get("job_id"), what="a job id"))

    def queue(self, user: str) -> list[str]:
        """What is queued or runs as the user, each as ``state reason`` or ``state nodes``."""
        wanted = ("-h", "-u", UNIX[user], "-o", "%T %R")
        return self.slurm.administer("squeue", *wanted).splitlines()

    def wait_for_empty_queue(self, user: str) -> None:
        """Wait until nothing of the user's is queued, runs, or is still being cleaned up."""
        eventually(lambda: not self.queue(user), what=f"{user} has no job")

    def end(self, job_id: str) -> str:
        """The job's last state, with who cancelled it, as accounting has it."""
        shown: list[str] = []

        def over() -> bool:
            columns = ("-X", "-n", "-P", "-o", "State,End")
            shown[:] = self.slurm.administer("sacct", *columns, "-j", job_id).strip().split("|")
            return shown[-1] not in ("", "Unknown")

        eventually(over, LAG, f"job {job_id} is over")
        return shown[0]

    # -- processes ---------------------------------------------------------------------------

    def leftovers(self) -> list[psutil.Process]:
        """The processes of jobs, on whatever node, and those that Slurm has for their steps."""
        found = []
        for pid in self.slurm.processes():
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(pid)
                if process.username() in self.slurm.users or process.name() == "slurmstepd":
                    found.append(process)
        return found

    def servers_of(self, job_id: str) -> list[psutil.Process]:
        """The single-user servers that run in the job."""
        return [
            process
            for process, environ in self._environs(job_id)
            if "JUPYTERHUB_SERVICE_URL" in environ
            and Path(process.cmdline()[-1]).name != "ipykernel"
            and "jupyterhub-singleuser" in " ".join(process.cmdline())
        ]

    def tasks_of(self, job_id: str) -> dict[int, str]:
        """Of the job's first step: rank -> node, for each task that has a living process."""
        return {
            int(environ["SLURM_PROCID"]): environ["SLURMD_NODENAME"]
            for _, environ in self._environs(job_id)
            if environ.get("SLURM_STEP_ID") == "0" and "SLURM_PROCID" in environ
        }

    def _environs(self, job_id: str) -> list[tuple[psutil.Process, dict[str, str]]]:
        found = []
        for process in self.leftovers():
            with contextlib.suppress(psutil.Error):
                environ = process.environ()
                if environ.get("SLURM_JOB_ID") == job_id:
                    found.append((process, environ))
        return found

    def log_of(self, user: str, job_id: str, folder: Path | None = None) -> str:
        """What the job wrote."""
        folder = folder or Path(pwd.getpwnam(UNIX[user]).pw_dir)
        return (folder / f"jupyter-{job_id}.log").read_text()


def script(*directives: str, command: str = "{{cmd}}") -> str:
    """A batch script as a site would write it: its directives, and a line that holds {{cmd}}."""
    head = [f"#SBATCH {line}" for line in ("--output=jupyter-%j.log", *directives)]
    return "\n".join(["#!/bin/bash", *head, command, ""])


def cancelled_by(user: str) -> str:
    """How accounting puts it."""
    return f"CANCELLED by {pwd.getpwnam(UNIX[user]).pw_uid}"


def words(messages: Sequence[dict[str, Any]]) -> list[str]:
    """The messages of progress events."""
    return [str(event["message"]) for event in messages]
