"""Does a server start, and leave nothing behind, where the user's home is read-only or full?"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.journeys.person import Person
from tests.services.processes import can_mount
from tests.slurm.cluster import UNIX, SlurmSite

WHERE = "import os\nos.environ['HOME']"
Spoil = Callable[[Path], contextlib.AbstractContextManager[None]]


@contextlib.contextmanager
def read_only(home: Path) -> Iterator[None]:
    """A home that is root's."""
    owner = home.stat()
    os.chown(home, 0, 0)
    try:
        yield
    finally:
        os.chown(home, owner.st_uid, owner.st_gid)


@contextlib.contextmanager
def full(home: Path) -> Iterator[None]:
    """A home on a file system whose only block is taken: files can be made, but not filled."""
    owner = home.stat()
    options = f"size=4k,mode=0755,uid={owner.st_uid},gid={owner.st_gid}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", home], check=True)
    try:
        (home / "filler").write_bytes(b"\0" * 4096)
        yield
    finally:
        # Lazily: a process that is just ending may still have its working directory there.
        subprocess.run(["umount", "--lazy", home], check=True)


def use_ipython_only(home: Path) -> None:
    """A home of somebody who knows IPython and has never used Jupyter, which wants to note that."""
    shutil.rmtree(home / ".jupyter", ignore_errors=True)
    (home / ".ipython").mkdir(exist_ok=True)
    shutil.chown(home / ".ipython", UNIX["alice"], UNIX["alice"])


@pytest.fixture
def workdir(site: SlurmSite) -> Iterator[Path]:
    """A directory of alice's, elsewhere than her home."""
    folder = Path(tempfile.mkdtemp(prefix="fcs-workdir-"))
    shutil.chown(folder, UNIX["alice"], UNIX["alice"])
    yield folder
    shutil.rmtree(folder)


# Where nobody may mount (an unprivileged container), read-only has to stand for both.
@pytest.mark.parametrize("spoil", [read_only, full] if can_mount() else [read_only])
def test_a_server_starts_where_home_cannot_be_written(
    site: SlurmSite, alice: Person, workdir: Path, spoil: Spoil
):
    """Jupyter's own files go to a private directory, which the server's end removes."""
    server = spoil.__name__.replace("_", "-")
    site.configure(server, workdir=str(workdir))
    home = Path(pwd.getpwnam(UNIX["alice"]).pw_dir)
    use_ipython_only(home)
    with spoil(home):
        use_ipython_only(home)
        alice.start(server)
        job_id = site.job_id("alice", server)
        assert alice.run(alice.start_kernel(server), WHERE) == f"'{home}'"
        log = site.log_of("alice", job_id, workdir)
        (where,) = re.findall(r"HOME cannot be written: Jupyter keeps its own files in (\S+)", log)
        assert Path(where, "runtime").is_dir()
        assert Path(where).stat().st_mode & 0o777 == 0o700
        alice.stop(server)
        site.wait_for_empty_queue("alice")
    assert not Path(where).exists()
    assert [path.name for path in workdir.iterdir()] == [f"jupyter-{job_id}.log"]
