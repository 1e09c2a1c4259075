"""What do the preamble and the stub of a batch script do in a real shell?"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from firecrestspawner import script
from firecrestspawner.script import Trusted

TICKET = script.encode_ticket("http://hub/hub/api/firecrest/job", "0123456789abcdef.secret", 60)
BASH = shutil.which("bash") or "bash"


def render(template: str) -> str:
    return script.render(template, values={}, job_name="jhub", scheduler="slurm", ticket=TICKET)


def run(body: str, cwd: Path, *variables: str) -> subprocess.CompletedProcess[str]:
    """The script with this body, in bash, in an environment of nothing but `variables`."""
    return subprocess.run(
        ["env", "-i", "PATH=/usr/bin:/bin", *variables, BASH],
        input=render(f"#!/bin/bash\n{body}\n"),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=20,
    )


def environment(text: str) -> dict[str, str]:
    return {name: value for name, _, value in (line.partition("=") for line in text.splitlines())}


def test_the_file_is_private_and_gone_after_the_script(tmp_path: Path) -> None:
    done = run("ls -l .firecrest-*", tmp_path, "SLURM_JOB_ID=7")
    assert done.stdout.startswith("-rw------- ")
    assert not list(tmp_path.iterdir())


def test_the_file_holds_what_a_cleaned_environment_lacks(tmp_path: Path) -> None:
    done = run('cat "$FIRECREST_FILE"', tmp_path, "SLURM_JOB_ID=7", "SLURM_JOB_END_TIME=99")
    held = environment(done.stdout)
    assert held["FIRECREST_TICKET"] == TICKET
    assert held["FIRECREST_LAUNCHER"] == script.pack_launcher()
    assert (held["SLURM_JOB_ID"], held["SLURM_JOB_END_TIME"]) == ("7", "99")


def test_with_pbs_the_file_is_where_the_template_goes(tmp_path: Path) -> None:
    """PBS begins in HOME; a container may have nothing but the working directory."""
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    text = script.render(
        script.shipped_template("pbs"),
        values={"prologue": Trusted('ls -A "$HOME"; cat .firecrest-*; exit 0')},
        job_name="jhub",
        scheduler="pbs",
        ticket=TICKET,
    )
    env = {"PATH": "/usr/bin:/bin", "HOME": str(home), "PBS_O_WORKDIR": str(work)}
    for variables in ({**env, "PBS_JOBID": "7.pbs01"}, {**env, "PBS_O_WORKDIR": str(home)}):
        done = subprocess.run(
            [BASH], input=text, env=variables, cwd=home, capture_output=True, text=True, timeout=20
        )
        listed, _, held = done.stdout.rpartition("FIRECREST_TICKET=")
        assert held.startswith(TICKET)
        assert bool(listed) == (variables["PBS_O_WORKDIR"] == str(home))
        assert not [*home.iterdir(), *work.iterdir()]


@pytest.mark.parametrize(
    ("head", "seconds"),
    [
        ("#PBS -l walltime=01:30:00", 5400),
        ("#PBS -l walltime=90:00", 5400),
        ("#PBS -lwalltime=90:00\n#PBS -l walltime=9", 5400),
        ("#PBS -l select=1,walltime=5400\n  #PBS -l walltime=9", 5400),
        ("#PBS -l walltime=5400 -l walltime=9\n#PBS -l walltime=8", 5400),
        ("#PBS -q long\n# walltime=7", None),
        ("#PBS -l max_walltime=02:00:00", None),
        ("#PBS -l walltime=:", None),
        ("#PBS -l walltime=" + "9" * 5000, None),
    ],
)
def test_a_pbs_job_knows_its_end_by_the_limit_that_its_script_asks_for(
    tmp_path: Path, head: str, seconds: int | None
) -> None:
    """PBS has no variable for it; what the environment loses is in the file."""
    text = script.render(
        f'#!/bin/bash -eu\n{head}\necho "FIRECREST_JOB_END=${{FIRECREST_JOB_END-}}"\n'
        'grep FIRECREST_JOB_END= "$FIRECREST_FILE"\n',
        values={},
        job_name="jhub",
        scheduler="pbs",
        ticket=TICKET,
    )
    env = {"PATH": "/usr/bin:/bin", "PBS_JOBID": "7.pbs01"}
    began = int(time.time())
    done = subprocess.run(
        [BASH], input=text, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=20
    )
    exported, held = done.stdout.splitlines()
    assert exported == held
    end = held.partition("=")[2]
    if seconds is None:
        assert end == ""
    else:
        assert began + seconds <= int(end) <= int(time.time()) + seconds


def test_a_link_in_the_way_is_not_written_through(tmp_path: Path) -> None:
    name = run('printf %s "$FIRECREST_FILE"', tmp_path).stdout
    (tmp_path / "target").touch()
    for target in ("target", "absent"):
        Path(name).symlink_to(tmp_path / target)
        done = run('printf %s "$FIRECREST_FILE$FIRECREST_TICKET"', tmp_path)
        assert done.stdout == TICKET
        assert not Path(name).is_symlink()
    assert (tmp_path / "target").read_text() == ""
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize("flags", ["", " -e", " -eu", " -x", " -v"])
def test_the_preamble_survives_strict_shells_and_shows_no_ticket(
    tmp_path: Path, flags: str
) -> None:
    """S1: a traced script must not write the ticket into the job's log."""
    path = tmp_path / "script"
    path.write_text(render(f"#!{BASH}{flags}\necho done\n"))
    # /proc/self takes no file: the variables alone must do.
    done = subprocess.run(
        [BASH, *flags.split(), str(path)],
        cwd="/proc/self",
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert (done.returncode, done.stdout) == (0, "done\n")
    assert TICKET not in done.stderr
    assert ("+ echo done" in done.stderr) == (flags == " -x")


@pytest.mark.parametrize(
    ("before", "after"), [("NONE", "ALL"), ("NIL", "ALL"), ("ALL,A=1", "ALL,A=1"), ("A", "A")]
)
def test_a_cleaned_environment_is_not_passed_on_to_srun(
    tmp_path: Path, before: str, after: str
) -> None:
    done = run("env", tmp_path, f"SLURM_EXPORT_ENV={before}")
    assert environment(done.stdout)["SLURM_EXPORT_ENV"] == after


def test_a_sites_own_slurm_wait_is_kept(tmp_path: Path) -> None:
    env = environment(run("env", tmp_path, "SLURM_WAIT=7").stdout)
    assert env["SLURM_WAIT"] == "7"
    assert "FIRECREST_WAIT" not in env
    env = environment(run("env", tmp_path).stdout)
    assert (env["SLURM_WAIT"], env["FIRECREST_WAIT"]) == ("30", "1")


def test_the_shell_outlives_sigterm_so_that_the_server_can_save(tmp_path: Path) -> None:
    assert run("kill -TERM $$; kill -USR1 $$; echo saved", tmp_path).stdout == "saved\n"


def test_signals_reach_the_shells_children_untrapped(tmp_path: Path) -> None:
    done = run("bash -c 'kill -TERM $$; echo not reached'; echo $?", tmp_path)
    assert done.stdout == "143\n"


@pytest.mark.parametrize("epilogue", ["", Trusted("true")], ids=["alone", "with an epilogue"])
@pytest.mark.parametrize("scheduler", ["slurm", "pbs"])
def test_the_scripts_status_is_the_servers(
    tmp_path: Path, scheduler: script.Scheduler, epilogue: str
) -> None:
    python = tmp_path / "python-stand-in"
    python.write_text("#!/bin/sh\nexit 42\n")
    python.chmod(0o755)
    text = script.render(
        script.shipped_template(scheduler),
        values={"epilogue": epilogue},
        job_name="jhub",
        scheduler=scheduler,
        ticket=TICKET,
        python=str(python),
    )
    assert subprocess.run([BASH], input=text, text=True, cwd=tmp_path).returncode == 42


# --- the stub


def stub(
    cwd: Path, *arguments: str, before: str = "", **variables: str
) -> subprocess.CompletedProcess[str]:
    python, alone, option, code, _ = shlex.split(script.launcher_command(sys.executable))
    return subprocess.run(
        [python, alone, option, before + code, *arguments],
        env=variables,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=20,
    )


def test_the_stub_runs_the_packed_launcher(tmp_path: Path) -> None:
    done = stub(tmp_path, "", FIRECREST_LAUNCHER=script.pack_launcher())
    assert done.returncode == 1
    assert done.stderr.startswith("[firecrestspawner] no usable ticket")


@pytest.mark.parametrize("where", ["the working directory", "PYTHONPATH"])
def test_a_users_own_files_are_not_taken_for_the_standard_library(
    tmp_path: Path, where: str
) -> None:
    for name in ("os", "base64", "random", "json", "socket", "enum", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('mine')")
    variables = {"FIRECREST_LAUNCHER": script.pack_launcher()}
    if where == "PYTHONPATH":
        variables["PYTHONPATH"] = str(tmp_path)
    done = stub(tmp_path if where != "PYTHONPATH" else Path("/"), "", **variables)
    assert done.stderr.startswith("[firecrestspawner] no usable ticket")


def test_the_stub_takes_the_launcher_from_the_file_where_variables_were_cleaned(
    tmp_path: Path,
) -> None:
    file = tmp_path / ".firecrest-x"
    file.write_text(f"FIRECREST_LAUNCHER={script.pack_launcher()}\nSLURM_JOB_ID=7\n")
    assert stub(tmp_path, str(file)).stderr.startswith("[firecrestspawner] no usable ticket")
    assert not file.exists()


@pytest.mark.parametrize("path", ["", "/nowhere/.firecrest-x"])
def test_the_stub_says_when_neither_variable_nor_file_reached_it(tmp_path: Path, path: str) -> None:
    done = stub(tmp_path, path)
    assert done.returncode == 1
    assert done.stderr.startswith("[firecrestspawner] no ticket")
    assert done.stderr.count("\n") == 1


def test_the_stub_of_rank_0_does_not_wait_for_a_file_that_is_not_there(tmp_path: Path) -> None:
    done = stub(tmp_path, str(tmp_path / ".firecrest-x"), SLURM_PROCID="0")
    assert done.returncode == 1
    assert done.stderr.startswith("[firecrestspawner] no ticket")


def test_an_older_python_gets_one_clear_line(tmp_path: Path) -> None:
    done = stub(tmp_path, "", before="import sys; sys.version_info = (3, 6, 15); ")
    assert done.returncode == 1
    assert done.stderr.startswith("[firecrestspawner] Python 3.8 or newer is needed")
    assert done.stderr.count("\n") == 1
