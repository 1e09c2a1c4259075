"""Does a server start in a container that has nothing of its user but the working directory?"""

from __future__ import annotations

import os
import shlex
import signal
from pathlib import Path

import pytest

from firecrestspawner import script
from tests.services.processes import can_mount
from tests.unit.singleuser.channel_end import SERVER, Hub, Launch, ticket

#: A user whom the container's /etc/passwd does not know.
USER = 54321
PYTHON = "/usr/bin/python3"  # an image's own, rather than one below a home
INSIDE = Path("/mnt")
# No home, no /tmp that could be written, no variable but PATH and a HOME that is not there.
CONTAINER = f"""
mount --bind . {INSIDE} && cd {INSIDE} || exit 99
for hidden in /tmp /home /root; do mount -t tmpfs -o ro,size=4k tmpfs "$hidden" || exit 99; done
exec setpriv --reuid={USER} --regid={USER} --clear-groups \\
  env -i PATH=/usr/bin:/bin HOME=/home/alice "$@"
"""


# Where nobody may mount, a HOME that does not exist and a cleaned environment stand for it.
@pytest.mark.parametrize("contained", [can_mount()], ids=["mounts" if can_mount() else "names"])
def test_the_working_directory_is_enough(
    hub: Hub, launch: Launch, tmp_path: Path, contained: bool
) -> None:
    """S4: the ticket and the launcher itself come from the file there, and the file goes."""
    where = INSIDE if contained else tmp_path
    file = tmp_path / ".firecrest-x"
    file.write_text(
        f"FIRECREST_TICKET={ticket(hub)}\nFIRECREST_LAUNCHER={script.pack_launcher()}\n"
        "SLURM_JOB_ID=7\n"
    )
    command = [*shlex.split(script.launcher_command(PYTHON))[:-1], str(where / file.name)]
    hub.start["command"] = [PYTHON, "-c", SERVER]
    hub.start["environment"]["SEEN"] = str(where / "seen.json")
    if contained:
        for path in (tmp_path, file):
            os.chown(path, USER, USER)
        argv = ["unshare", "--mount", "sh", "-c", CONTAINER, "sh", *command]
    else:
        argv = ["env", "-i", "PATH=/usr/bin:/bin", "HOME=/home/nobody-at-all", *command]
    job = launch(argv=argv)
    assert hub.wait("ready")["port"]
    assert hub.wait("hello")["job_id"] == "7"
    env = job.seen()["env"]
    assert env["HOME"] == str(where)
    assert "JUPYTER_RUNTIME_DIR" not in env
    job.process.terminate()
    assert job.wait()[0] == 128 + signal.SIGTERM
    assert [path.name for path in tmp_path.iterdir()] == ["seen.json"]
