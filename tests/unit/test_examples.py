"""Do the examples' batch scripts come out as scripts that a shell and Slurm can read?"""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from firecrestspawner import script

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = sorted((ROOT / "examples").rglob("*.sh.j2"))
TICKET = script.encode_ticket("https://hub/hub/api/firecrest/job", "00" * 8 + "." + "t" * 43, 900)

ASKED = {
    "partition": "normal",
    "account": "proj1",
    "reservation": "course",
    "runtime": "02:00:00",
    "gpus": "2",
    "cpus": "16",
    "prologue": script.Trusted("module load apptainer"),
}


def render(template: Path, **values: object) -> str:
    return script.render(
        template, values=values, job_name="jhub-test", scheduler="slurm", ticket=TICKET
    )


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
@pytest.mark.parametrize("values", [{}, ASKED], ids=["nothing asked", "everything asked"])
def test_an_example_renders_to_a_script_that_bash_parses(
    template: Path, values: dict[str, object]
) -> None:
    text = render(template, **values)
    done = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "{{" not in text
    assert "{%" not in text


def test_the_realm_file_lets_nobody_in() -> None:
    """No password, no secret; an address that nobody filled in is no address of ours."""
    text = (ROOT / "examples" / "keycloak" / "hpc-realm.json").read_text()
    names = {name.lower() for name in re.findall(r'"([^"]+)":', text)}
    assert "clientid" in names
    assert not names & {"secret", "credentials", "value", "password", "secretdata"}
    assert set(re.findall(r'https?://[^/"}]+', text)) == {"https://jupyter.example.org"}
    hubs = re.findall(r'"([^"]*jupyter\.example\.org[^"]*)"', text)
    assert all(url.startswith("${HUB_PUBLIC_URL:") for url in hubs)


def test_there_are_examples() -> None:
    assert [path.name for path in TEMPLATES] == ["slurm-container.sh.j2"]


def test_the_container_example_passes_on_what_was_asked() -> None:
    lines = render(ROOT / "examples" / "slurm-container.sh.j2", **ASKED).splitlines()
    for option in (
        *("--partition=normal", "--account=proj1", "--reservation=course"),
        *("--time=02:00:00", "--gpus=2", "--cpus-per-task=16"),
        *("--job-name=jhub-test", "--no-requeue"),
    ):
        assert f"#SBATCH {option}" in lines
    assert "module load apptainer" in lines


def test_the_container_example_runs_the_launchers_command_inside_the_image(tmp_path: Path) -> None:
    """The words reach `apptainer exec` whole, through srun, with the ticket's file as argument."""
    text = render(ROOT / "examples" / "slurm-container.sh.j2")
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, body in {
        "srun": 'shift; exec "$@"',  # --ntasks=1
        "apptainer": 'printf "%s\\0" "$@" >"$WORDS"; test -s "${@: -1}"',
    }.items():
        tool = tools / name
        tool.write_text(f"#!/bin/bash\n{body}\n")
        tool.chmod(0o755)
    words = tmp_path / "words"
    done = subprocess.run(
        ["bash", "-s"],
        input=text,
        text=True,
        cwd=tmp_path,
        env={"PATH": f"{tools}:/usr/bin:/bin", "WORDS": str(words)},
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    found = words.read_text().split("\0")[:-1]
    image = found.index("/apps/images/jupyter-2026.sif")
    assert found[:image] == [
        *("exec", "--nv", "--cleanenv", "--bind", str(tmp_path), "--pwd", str(tmp_path))
    ]
    expected = shlex.split(script.launcher_command())[:-1]  # the last one is "$FIRECREST_FILE"
    assert found[image + 1 : -1] == expected
    assert Path(found[-1]).parent == tmp_path
    assert not Path(found[-1]).exists(), "the script removes its ticket's file at its end"
