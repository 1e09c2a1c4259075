"""Do the batch scripts that ship work, and can a site build its own on them?"""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from firecrestspawner import script
from firecrestspawner.causes import Traces, cause_of
from firecrestspawner.script import SHIPPED, ScriptError, Trusted
from tests.unit.test_script import ATTACKS, BASH, NEEDED, directives, hostile, render

ROOT = Path(__file__).resolve().parents[2]
#: What only a shell sees, where a template hands it to a command.
TO_COMMANDS = [
    ("slurm-apptainer", "image"),
    ("slurm-container", "image"),
    ("slurm-environment", "edf"),
]

# What stands in for the commands of a node: each notes its words and runs what comes behind them.
SRUN = """
printf '%s\\0' "$@" >srun
while [[ $1 == -* ]]; do shift; done
exec "$@"
"""
APPTAINER = """
printf '%s\\0' "$@" >apptainer
shift
while [[ $1 == -* ]]; do case $1 in --bind | --pwd) shift 2 ;; *) shift ;; esac; done
shift
exec "$@"
"""
MODULE = """
printf '%s\\n' "$*" >>module
[ "$2" != unknown ]
"""
PYTHON = """
[ -s "${@: -1}" ] && printf '%s\\0' "$@" >python
exit 42
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of such commands."""
    tools = tmp_path_factory.mktemp("bin")
    tools_of = {"srun": SRUN, "apptainer": APPTAINER, "python3": PYTHON, "module": MODULE}
    for name, body in tools_of.items():
        (tools / name).write_text(f"#!{BASH}\n{body}")
        (tools / name).chmod(0o755)
    return tools


def run(text: str, node: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": f"{node}:/usr/bin:/bin"}
    return subprocess.run(
        [BASH], input=text, cwd=cwd, env=environment, text=True, capture_output=True, timeout=20
    )


def words(path: Path) -> list[str]:
    return path.read_text().split("\0")[:-1]


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("epilogue", ["", "touch saved"], ids=["alone", "with an epilogue"])
def test_the_launchers_command_runs_whole_and_the_scripts_status_is_its(
    node: Path, tmp_path: Path, name: str, epilogue: str
) -> None:
    """Through srun and containers, with the ticket's file as its argument."""
    text = render(script.shipped_template(name), name, epilogue=Trusted(epilogue), **NEEDED[name])
    done = run(text, node, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (42, "", "")
    expected = shlex.split(script.launcher_command())
    assert words(tmp_path / "python")[:-1] == expected[1:-1]
    assert Path(words(tmp_path / "python")[-1]).parent == tmp_path
    assert (tmp_path / "saved").exists() == bool(epilogue)
    assert not list(tmp_path.glob(".firecrest-*")), "the script removes its ticket's file"


@pytest.mark.parametrize("name", SHIPPED)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(value=hostile, field=st.sampled_from(script.FIELDS))
def test_no_value_of_a_shipped_script_runs_as_a_command(
    node: Path, tmp_path_factory: pytest.TempPathFactory, name: str, value: str, field: str
) -> None:
    """S2: what really runs is the launcher, whatever is asked for."""
    values = {**NEEDED[name], field: value}
    try:
        text = render(script.shipped_template(name), name, **values)
    except ScriptError:
        return
    cwd = tmp_path_factory.mktemp("job")
    subprocess.run([BASH, "-n"], input=text, text=True, cwd=cwd, check=True)
    if field not in ("prologue", "epilogue"):  # only ever the deployer's own: a shell runs them
        # There is no virtual environment of such a name.
        assert run(text, node, cwd).returncode in ((1, 42) if field == "venv" else (42,))
    seen = {path.name for path in cwd.iterdir()}
    assert seen <= {"python", "srun", "apptainer", "module"}, seen


@pytest.mark.parametrize(("name", "field"), TO_COMMANDS)
@pytest.mark.parametrize("value", [*ATTACKS, "--uid=0", "-B", "a b", "host#image:tag"])
def test_what_names_a_container_stays_one_word_of_its_command(
    node: Path, tmp_path: Path, name: str, field: str, value: str
) -> None:
    """S2: never an option of srun or apptainer, either."""
    plain, hard = (tmp_path / "plain", tmp_path / "hard")
    for cwd in (plain, hard):
        cwd.mkdir()
    try:
        text = render(script.shipped_template(name), name, **{field: value})
    except ScriptError as error:
        assert value.startswith("-") or "\ue000" in value, error
        return
    run(render(script.shipped_template(name), name, **{field: "VALUE"}), node, plain)
    run(text, node, hard)
    for tool in [path.name for path in plain.iterdir() if path.name != "python"]:
        expected = [word.replace(str(plain), str(hard)) for word in words(plain / tool)]
        assert words(hard / tool)[:-1] == [
            word.replace("VALUE", value) for word in expected[:-1]
        ], tool
    assert (hard / "python").exists()


@pytest.mark.parametrize(("name", "field"), [*TO_COMMANDS, ("slurm-uenv", "uenv")])
def test_a_script_says_which_value_it_cannot_do_without(name: str, field: str) -> None:
    with pytest.raises(ScriptError, match=f"needs a value for '{field}'"):
        render(script.shipped_template(name), name)


@pytest.mark.parametrize("name", SHIPPED)
def test_modules_and_a_virtual_environment_are_there_before_the_server(
    node: Path, tmp_path: Path, name: str
) -> None:
    """In this order: a prologue may be what makes `module` known."""
    venv = tmp_path / "a=b" / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "activate").write_text("cat module >activated\n")
    values = {"prologue": Trusted("echo first >module"), "modules": "cuda/12.4,x@1", "venv": venv}
    text = render(script.shipped_template(name), name, **values, **NEEDED[name])
    assert run(text, node, tmp_path).returncode == 42
    loaded = ["first", "load cuda/12.4", "load x@1"]
    assert (tmp_path / "activated").read_text().splitlines() == loaded
    assert (tmp_path / "python").exists()


@pytest.mark.parametrize(
    ("asked", "status", "said"),
    [
        ({"modules": "unknown,x"}, 1, ""),
        ({"venv": "/nowhere/venv"}, 1, "/nowhere/venv/bin/activate"),
    ],
    ids=["module", "virtual environment"],
)
@pytest.mark.parametrize("name", ["slurm", "pbs"])
def test_no_server_starts_without_what_was_chosen_for_it(
    node: Path, tmp_path: Path, name: str, asked: dict[str, str], status: int, said: str
) -> None:
    done = run(render(script.shipped_template(name), name, **asked), node, tmp_path)
    assert done.returncode == status and said in done.stderr
    assert not (tmp_path / "python").exists()
    assert not list(tmp_path.glob(".firecrest-*"))
    if said:
        assert cause_of(Traces(lines=done.stderr.splitlines())).name == "missing-environment"


@pytest.mark.parametrize("asked", [{"venv": "-x"}, {"modules": "cuda,--force"}])
def test_nothing_chosen_is_an_option_of_the_command_that_loads_it(asked: dict[str, str]) -> None:
    """S2"""
    for name in ("slurm", "pbs"):
        with pytest.raises(ScriptError, match="cannot begin with '-'"):
            render(script.shipped_template(name), name, **asked)


def test_a_uenv_and_its_view_are_directives() -> None:
    text = render(
        script.shipped_template("slurm-uenv"), uenv="prgenv-gnu/24.11:v2,x:/m", view="default"
    )
    assert "#SBATCH --uenv=prgenv-gnu/24.11:v2,x:/m" in directives(text)
    assert "#SBATCH --view=default" in directives(text)


def test_a_container_gets_the_working_directory_and_what_was_asked_for(
    node: Path, tmp_path: Path
) -> None:
    for name in ("slurm-apptainer", "slurm-container"):
        text = render(script.shipped_template(name), name, image="reg#i:1", cpus=4, gpus=1)
        assert run(text, node, tmp_path).returncode == 42
        assert "--cpus-per-task=4" in words(tmp_path / "srun")
        if name == "slurm-container":
            assert "--container-image=reg#i:1" in words(tmp_path / "srun")
            assert f"--container-mounts={tmp_path}:{tmp_path}" in words(tmp_path / "srun")
        else:
            own = ["exec", "--cleanenv", "--nv", "--bind", str(tmp_path), "--pwd", str(tmp_path)]
            assert words(tmp_path / "apptainer")[:8] == [*own, "reg#i:1"]


@pytest.mark.parametrize("name", SHIPPED)
def test_every_script_says_which_values_and_blocks_it_has(name: str) -> None:
    source = script.shipped_template(name).read_text()
    comment, rest = source.split("-#}", 1)
    assert comment.startswith("{#- The batch script for ")
    for value in NEEDED[name]:
        assert re.search(rf"^  {value} ", comment, re.M)
    for block in re.findall(r"{% block (\w+)", rest):
        assert block in comment
    used = set(re.findall(r"[a-z_]+", " ".join(re.findall(r"{[{%](.*?)[}%]}", rest))))
    missing = {field for field in used & set(script.FIELDS) if field not in comment}
    assert not missing


# --- templates of a site's own


OVERRIDES = {
    "shebang": ("#!/bin/bash -l", "#!/bin/bash -l"),
    "directives": ("{{ super() }}{word} --extra={{account}}", "{word} --extra=proj1"),
    "prologue": ("{{ super() }}\nmodule load extra", "module load own\nmodule load extra"),
    "software": ("{{ super() }}conda activate own", "conda activate own"),
    "launch": ("nice \\\n  {{ super() }}", "nice \\\n"),
    "epilogue": ("{{ super() }}\necho bye", "echo done\necho bye"),
}


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("block", OVERRIDES)
def test_a_site_overrides_a_block_and_keeps_the_rest(name: str, block: str) -> None:
    word = "#PBS" if name == "pbs" else "#SBATCH"
    written, expected = (text.replace("{word}", word) for text in OVERRIDES[block])
    own = f'{{% extends "{name}.sh.j2" %}}\n{{% block {block} %}}{written}\n{{% endblock %}}\n'
    values = {
        "account": "proj1",
        "prologue": Trusted("module load own"),
        "epilogue": Trusted("echo done"),
        **NEEDED[name],
    }
    shipped, text = (
        render(template, name, **values) for template in (script.shipped_template(name), own)
    )
    assert expected in text
    subprocess.run([BASH, "-n"], input=text, text=True, check=True)
    assert set(directives(shipped, word)) <= set(directives(text, word))
    own_lines = [line for line in shipped.splitlines() if line and not line.startswith("#!")]
    kept = "\n".join(text.splitlines())
    assert all(line in kept for line in own_lines if block != "launch" or "python3" not in line)


@pytest.mark.parametrize("value", ATTACKS)
def test_values_in_a_block_that_was_built_on_are_still_values(
    node: Path, tmp_path: Path, value: str
) -> None:
    """S2: super() is text of a template; what is filled into it is not."""
    middle = '{% extends "slurm-apptainer.sh.j2" %}{% block launch %}{{ super() }}{% endblock %}'
    (tmp_path / "middle.sh.j2").write_text(middle)
    own = tmp_path / "own.sh.j2"
    own.write_text(
        '{% extends "middle.sh.j2" %}{% block launch %}true {{value}}\n'
        "{% set kept = super() %}{{ kept }}\n{{ super.super() }}{% endblock %}"
    )
    try:
        text = render(own, value=value, image=value)
    except ScriptError:
        assert "\ue000" in value
        return
    job = tmp_path / "job"
    job.mkdir()
    assert run(text, node, job).returncode == 42
    assert {path.name for path in job.iterdir()} == {"srun", "apptainer", "python"}
    assert words(job / "apptainer")[-len(words(job / "python")) - 2] == value


@pytest.mark.parametrize(
    "expression", ["prologue.format(value)", "super().format(value)", "prologue ~ value"]
)
def test_text_that_a_value_was_put_into_is_trusted_no_more(expression: str) -> None:
    """S2"""
    own = '{% extends "slurm.sh.j2" %}{% block prologue %}{{ ' + expression + " }}{% endblock %}"
    text = render(own, prologue=Trusted("echo {}"), value="$(touch pwned)")
    assert "echo $(touch pwned)" not in re.sub(r"^firecrest_value_\d=.*$", "", text, flags=re.M)


def test_a_sites_file_may_be_called_like_the_one_it_extends(tmp_path: Path) -> None:
    own = tmp_path / "slurm.sh.j2"
    own.write_text('{% extends "slurm.sh.j2" %}{% block prologue %}echo own{% endblock %}')
    assert "\necho own\n" in render(own)


def test_files_beside_a_sites_template_can_be_included(tmp_path: Path) -> None:
    (tmp_path / "modules.sh").write_text("module load {{account}}\n")
    own = tmp_path / "own.sh.j2"
    own.write_text('#!/bin/bash\n{% include "modules.sh" %}{{cmd}}\n')
    assert "\nmodule load proj1\npython3 " in render(own, account="proj1")


@pytest.mark.parametrize(
    "named",
    ["../secret.sh", "/etc/passwd", "below/inner.sh", ".hidden", "form.html", "hub/home.html", ""],
)
@pytest.mark.parametrize("statement", ["extends", "include", "import"])
def test_nothing_else_on_the_disk_can_be_read(tmp_path: Path, named: str, statement: str) -> None:
    (tmp_path / "secret.sh").write_text("secret")
    site = tmp_path / "site"
    (site / "below").mkdir(parents=True)
    (site / "below" / "inner.sh").write_text("secret")
    (site / ".hidden").write_text("secret")
    own = site / "own.sh.j2"
    tail = " as it" if statement == "import" else ""
    own.write_text(f'#!/bin/bash\n{{% {statement} "{named}"{tail} %}}\n{{{{cmd}}}}\n')
    with pytest.raises(ScriptError, match="neither ships nor lies beside it"):
        render(own)


def test_a_template_given_as_text_has_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "modules.sh").write_text("secret")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ScriptError, match=r"'modules\.sh', which neither ships"):
        render('#!/bin/bash\n{% include "modules.sh" %}')


def test_a_file_that_cannot_be_read_is_named_without_its_directory(tmp_path: Path) -> None:
    (tmp_path / "binary.sh").write_bytes(b"\xff\xfe")
    own = tmp_path / "own.sh.j2"
    own.write_text('{% include "binary.sh" %}')
    for template, name in ((own, "binary.sh"), (tmp_path / "absent.sh.j2", "absent.sh.j2")):
        with pytest.raises(ScriptError, match=f"'{name}' cannot be read") as caught:
            render(template)
        assert str(tmp_path) not in str(caught.value)


def test_a_template_that_extends_itself_is_refused(tmp_path: Path) -> None:
    own = tmp_path / "own.sh.j2"
    own.write_text('{% extends "own.sh.j2" %}')
    with pytest.raises(ScriptError, match="RecursionError"):
        render(own)


def test_there_are_no_templates_but_those_that_are_named() -> None:
    found = {path.name for path in script.shipped_template("slurm").parent.glob("*.sh.j2")}
    assert found == {f"{name}.sh.j2" for name in SHIPPED}
