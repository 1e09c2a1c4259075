"""Do the examples' batch scripts come out as scripts that a shell and Slurm can read?"""

from __future__ import annotations

import re
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
    "prologue": script.Trusted("module load jupyter"),
}


def render(template: Path, **values: object) -> str:
    values = {"image": "/apps/images/jupyter-2026.sif", **values}
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
    assert [path.name for path in TEMPLATES] == ["alps.sh.j2"]


def test_a_sites_example_adds_to_what_ships_and_passes_on_what_was_asked() -> None:
    lines = render(ROOT / "examples" / "alps.sh.j2", **ASKED).splitlines()
    for option in (
        *("--partition=normal", "--account=proj1", "--reservation=course"),
        *("--time=02:00:00", "--gpus=2", "--cpus-per-task=16"),
        *("--job-name=jhub-test", "--no-requeue", "--exclusive"),
    ):
        assert f"#SBATCH {option}" in lines
    modules = [line for line in lines if line.startswith("module load ")]
    assert modules == ["module load apptainer", "module load jupyter"]
    assert '  --cleanenv --nv --bind "$PWD" --pwd "$PWD" --bind /scratch \\' in lines


def test_a_sites_example_asks_for_a_gpu_where_the_user_did_not() -> None:
    lines = render(ROOT / "examples" / "alps.sh.j2").splitlines()
    assert "#SBATCH --gpus=1" in lines
    assert "#SBATCH --time=04:00:00" in lines
