"""Can anything a user chooses change what a batch script does, and is every script complete?"""

from __future__ import annotations

import base64
import json
import re
import shlex
import shutil
import subprocess
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from firecrestspawner import script
from firecrestspawner.script import SHIPPED, ScriptError, Trusted

TICKET = script.encode_ticket("http://hub/hub/api/firecrest/job", "0123456789abcdef.secret", 60)
NAME = "jhub-test"
BASH = shutil.which("bash") or "bash"


#: What each script that ships cannot do without.
NEEDED: dict[str, dict[str, str]] = {name: {} for name in SHIPPED} | {
    "slurm-apptainer": {"image": "/apps/jupyter.sif"},
    "slurm-container": {"image": "/apps/jupyter.sqsh"},
    "slurm-environment": {"edf": "jupyter"},
    "slurm-uenv": {"uenv": "jupyter/24.11:v1"},
}


def render(template: str | Path, name: str = "slurm", **values: object) -> str:
    """The script, for the scheduler that ``name``, one of SHIPPED, begins with."""
    scheduler: script.Scheduler = "pbs" if name.startswith("pbs") else "slurm"
    return script.render(template, values=values, job_name=NAME, scheduler=scheduler, ticket=TICKET)


def directives(text: str, word: str = "#SBATCH") -> list[str]:
    """What the scheduler reads, by sbatch(1)'s rule, written anew here."""
    found = []
    for line in text.split("\n"):
        if line.strip() and not line.lstrip().startswith("#"):
            break
        if line.startswith(word):
            found.append(line)
    return found


ATTACKS = [
    "$(touch pwned)",
    "`touch pwned`",
    "'; touch pwned; '",
    '"; touch pwned; "',
    "\\'; touch pwned; \\'",
    "x\ntouch pwned\n",
    "x\n#SBATCH --uid=0\n",
    "END\ntouch pwned\n",
    "normal --uid=0",
    "{{ 7 * 7 }}",
    "\ue000" + b"touch pwned".hex() + "\ue001",
    "\u2028#SBATCH --uid=0",
    "|touch pwned",
    "#",
]
# Whatever a form field can hold, with a bias towards what shells and schedulers care about.
hostile = st.one_of(
    st.text(),
    st.text(alphabet="\"'`$(){}[];&|<>\\\n\t #!*?~=-%aZ0", min_size=1),
    st.sampled_from(ATTACKS),
)
EVERYWHERE = """\
#!/bin/bash
plain() { printf '%s\\0' "$@"; }
plain {{value}} >plain
plain "{{value}}" '{{value}}' $(printf %s {{value}}) `printf %s {{value}}` "$(echo "{{value}}")"
# a comment {{value}}
cat <<END
{{value}} "{{value}}"
END
bash -c 'true {{value}}'
touch end
"""


def quoted(value: str) -> str | None:
    """The value as a shell word; None if it is refused, which only control characters may be."""
    try:
        return script.quote(value)
    except ScriptError:
        assert re.search("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]", value)
        return None


@given(value=hostile)
def test_quote_makes_one_word_that_is_exactly_the_value(value: str) -> None:
    """S2"""
    word = quoted(value)
    assert word is None or shlex.split(word) == [value]


@settings(max_examples=50, deadline=None)
@given(value=hostile)
@example("x\ntouch pwned\n")
def test_quoted_values_reach_a_command_unchanged(value: str) -> None:
    """S2"""
    word = quoted(value)
    if word is not None:
        command = [BASH, "-c", f"printf %s {word}"]
        done = subprocess.run(command, capture_output=True, check=True)
        assert done.stdout.decode() == value


def runs_nothing(value: str, cwd: Path) -> None:
    try:
        text = render(EVERYWHERE, value=value)
    except ScriptError:
        return
    cwd.mkdir()
    subprocess.run([BASH, "-n"], input=text, text=True, cwd=cwd, check=True)
    assert directives(text) == [f"#SBATCH --job-name={NAME}", "#SBATCH --no-requeue"]
    subprocess.run([BASH], input=text, cwd=cwd, text=True, stdout=subprocess.DEVNULL, timeout=20)
    assert sorted(path.name for path in cwd.iterdir()) == ["end", "plain"]
    assert (cwd / "plain").read_bytes() == value.encode() + b"\0"


@pytest.mark.parametrize("value", ATTACKS)
def test_no_attack_runs_as_a_command_wherever_a_template_puts_it(
    tmp_path: Path, value: str
) -> None:
    """S2: in words, in both kinds of quotes, in substitutions, comments and here-documents."""
    runs_nothing(value, tmp_path / "job")


@settings(max_examples=40, deadline=None)
@given(value=hostile)
def test_no_value_runs_as_a_command_wherever_a_template_puts_it(
    tmp_path_factory: pytest.TempPathFactory, value: str
) -> None:
    """S2"""
    runs_nothing(value, tmp_path_factory.mktemp("script") / "job")


@pytest.mark.parametrize("shipped", SHIPPED)
@pytest.mark.parametrize("trusted", [False, True], ids=["directive fields", "all fields"])
@settings(max_examples=100, deadline=None)
@given(value=hostile, name=st.sampled_from(script.FIELDS))
def test_no_value_adds_a_directive_to_a_shipped_script(
    shipped: str, trusted: bool, value: str, name: str
) -> None:
    """S2: neither a line nor a word, whichever field it is given for."""
    template = script.shipped_template(shipped)
    word = "#PBS" if shipped == "pbs" else "#SBATCH"
    if not trusted and name in ("prologue", "epilogue"):
        return
    try:
        found = directives(render(template, shipped, **{**NEEDED[shipped], name: value}), word)
    except ScriptError:
        return
    values = {**NEEDED[shipped], name: "7" if value else ""}
    harmless = directives(render(template, shipped, **values), word)
    assert [len(line.split()) for line in found] == [len(line.split()) for line in harmless]


@pytest.mark.parametrize(
    "value",
    ["a b", "a\nb", "--uid=0", "$(x)", "a'b", 'a"b', "a\\b", "a#b", "a;b", "", "ü", "a\x00"],
)
def test_directive_refuses_and_names_the_field(value: str) -> None:
    """S2"""
    with pytest.raises(ScriptError, match="'account'"):
        script.directive(value, "account")


@pytest.mark.parametrize(
    "value", ["normal", "gpu:a100:2", "a,b", "[rack1*2&rack2]|gpu", "01:00:00", "1-0", "%j.log", 4]
)
def test_directive_accepts_what_slurm_needs(value: object) -> None:
    assert script.directive(value) == str(value)


@pytest.mark.parametrize("value", ["1:ncpus=64", "1,walltime=99", "1+8", "4:host", "a b", "-q"])
def test_a_pbs_value_cannot_add_a_resource(value: str) -> None:
    """S2: PBS separates resources within one directive."""
    with pytest.raises(ScriptError):
        script.directive(value, "nodes", "pbs")
    assert script.directive("100:00:00", "runtime", "pbs") == "100:00:00"


def test_a_value_unfit_for_a_directive_is_named_in_the_error() -> None:
    with pytest.raises(ScriptError, match="'partition'"):
        render(script.shipped_template("slurm"), partition="normal\n#SBATCH --uid=0")


def test_only_what_the_deployer_marked_is_placed_as_it_is() -> None:
    """S2"""
    text = "cd x; true"
    assert render("#!/bin/bash\n{{prologue}}", prologue=Trusted(text)).endswith(f"\n{text}\n")
    assert render("#!/bin/bash\n{{prologue}}", prologue=text).endswith('\n"$firecrest_value_1"\n')


def test_captured_and_computed_values_are_no_way_around() -> None:
    """S2: block assignment, filters and concatenation give values, too."""
    template = (
        "#!/bin/bash\n{% set kept %}{{value}}{% endset %}true {{kept}} {{value | upper}} "
        "{{'-' ~ value}} {{[value] | join}}\n"
    )
    body = render(template, value="$(touch pwned)").splitlines()[-1]
    assert re.fullmatch(r'true( "\$firecrest_value_[123]"){4}', body)


def test_templates_run_in_a_sandbox() -> None:
    with pytest.raises(ScriptError):
        render("#!/bin/bash\n{{ ''.__class__.__mro__ }}\n")


# --- what every script has


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_template_needs_no_value_but_what_it_runs_in(name: str) -> None:
    text = render(script.shipped_template(name), name, **NEEDED[name])
    assert text.startswith("#!/bin/bash\n")
    subprocess.run([BASH, "-n"], input=text, text=True, check=True)
    assert text.endswith('"$FIRECREST_FILE"\nfirecrest_status=$?\n\nexit "$firecrest_status"\n')


def test_the_slurm_template_writes_each_field_as_sbatch_knows_it() -> None:
    text = render(
        script.shipped_template("slurm"),
        partition="normal",
        account="proj1",
        reservation="class",
        runtime="01:00:00",
        nodes=2,
        ntasks=4,
        cpus=8,
        memory="16G",
        gpus=1,
        gres="gpu:1",
        qos="high",
        constraint="gpu|mc",
        output="logs/%j.txt",
        options=Trusted("--exclusive --mail-type=END"),
        prologue=Trusted("module load jupyter"),
        epilogue=Trusted("echo bye"),
    )
    expected = [
        f"--job-name={NAME}",
        "--no-requeue",
        "--output=logs/%j.txt",
        "--partition=normal",
        "--account=proj1",
        "--reservation=class",
        "--qos=high",
        "--constraint=gpu|mc",
        "--time=01:00:00",
        "--nodes=2",
        "--ntasks=4",
        "--cpus-per-task=8",
        "--mem=16G",
        "--gpus=1",
        "--gres=gpu:1",
        "--exclusive --mail-type=END",
    ]
    assert sorted(directives(text)) == sorted(f"#SBATCH {option}" for option in expected)
    assert text.index("module load jupyter") < text.index("python3 -ES -c") < text.index("echo bye")


def test_the_pbs_template_writes_each_field_as_qsub_knows_it() -> None:
    text = render(
        script.shipped_template("pbs"),
        "pbs",
        partition="workq",
        account="proj1",
        runtime="01:00:00",
        nodes=2,
        ntasks=4,
        cpus=8,
        memory="16gb",
        gpus=1,
        options=Trusted("-l place=excl"),
    )
    expected = [
        f"-N {NAME}",
        "-r n",
        "-j oe",
        "-S /bin/bash",
        "-o jupyter.log",
        "-q workq",
        "-A proj1",
        "-l walltime=01:00:00",
        "-l select=2:ncpus=32:mpiprocs=4:mem=16gb:ngpus=1",
        "-l place=excl",
        "-l place=scatter",
    ]
    found = directives(text, "#PBS")
    assert sorted(found) == sorted(f"#PBS {option}" for option in expected)
    # qsub takes the first of two: the site's own.
    assert found.index("#PBS -l place=excl") < found.index("#PBS -l place=scatter")


@pytest.mark.parametrize("asked", [{"nodes": "2"}, {"nodes": 2}, {"cpus": 2}])
def test_several_nodes_of_pbs_are_as_many_hosts(asked: dict[str, Any]) -> None:
    """OpenPBS put a server's two nodes (select=2) on one, which had two CPUs free."""
    found = directives(render(script.shipped_template("pbs"), "pbs", **asked), "#PBS")
    assert ("#PBS -l place=scatter" in found) == ("nodes" in asked)


@pytest.mark.parametrize(
    "template",
    [
        "#!/bin/bash\n#SBATCH -p x\n\n# a comment\n{{cmd}}\n",
        "{{cmd}}",
        "\ufeff\r\n#!/bin/bash\r\n#SBATCH -p x\r\n{{cmd}}\r\n",
        "{# why #}\n#!/bin/bash -l\n{{cmd}}\n#SBATCH --time=1\n",
        "#!/usr/bin/env zsh\n{{cmd}}",
    ],
    ids=["usual", "bare", "from Windows", "late directive", "zsh"],
)
def test_any_site_template_gets_name_no_requeue_and_preamble_where_they_count(
    template: str,
) -> None:
    text = render(template)
    assert text.startswith("#!/")
    assert "\r" not in text
    found = directives(text)
    assert found[-2:] == [f"#SBATCH --job-name={NAME}", "#SBATCH --no-requeue"]
    assert text.index("export FIRECREST_TICKET=") < text.index("python3 -ES -c")


def test_guaranteed_directives_are_not_written_twice() -> None:
    text = render("#!/bin/bash\n#SBATCH --no-requeue\n#SBATCH --job-name={{job_name}}\n{{cmd}}\n")
    assert sorted(directives(text)) == [f"#SBATCH --job-name={NAME}", "#SBATCH --no-requeue"]


def test_a_heterogeneous_job_is_named_in_its_first_component() -> None:
    text = render("#!/bin/bash\n#SBATCH -n1\n#SBATCH hetjob\n#SBATCH -n2\n{{cmd}}\n")
    assert directives(text)[:2] == ["#SBATCH -n1", f"#SBATCH --job-name={NAME}"]


@pytest.mark.parametrize(
    ("scheduler", "line"),
    [
        ("slurm", "#SBATCH --job-name=mine"),
        ("slurm", "#SBATCH --job-name mine"),
        ("slurm", "#SBATCH --job=mine"),
        ("slurm", "#SBATCH -J mine"),
        ("slurm", "#SBATCH -Jmine"),
        ("slurm", "#SBATCH -p x -J mine"),
        ("pbs", "#PBS -N mine"),
        ("pbs", "#PBS -Nmine"),
        ("pbs", "  #PBS -N mine"),
    ],
)
def test_a_job_name_of_the_templates_own_is_an_error(
    scheduler: script.Scheduler, line: str
) -> None:
    with pytest.raises(ScriptError, match=f"by the name '{NAME}'"):
        render(f"#!/bin/bash\n{line}\n{{{{cmd}}}}\n", scheduler)


@pytest.mark.parametrize(
    ("scheduler", "line"),
    [("slurm", "#SBATCH --requeue"), ("pbs", "#PBS -r y"), ("pbs", "\t#PBS -ry")],
)
def test_requeueing_is_an_error(scheduler: script.Scheduler, line: str) -> None:
    with pytest.raises(ScriptError, match="requeue"):
        render(f"#!/bin/bash\n{line}\n{{{{cmd}}}}\n", scheduler)


@pytest.mark.parametrize(
    "template",
    [
        "#!/bin/tcsh\n{{cmd}}",
        "#!/usr/bin/python3\n",
        "#!/bin/bash\n{{unknown}}",
        "#!/bin/bash\n{% if %}",
        "#!/bin/bash\n{{ account + 1 }}",
        "#!/bin/bash\necho \x07",
    ],
)
def test_a_template_that_cannot_work_is_refused_with_a_sentence(template: str) -> None:
    with pytest.raises(ScriptError, match=r"^The batch script"):
        render(template, account="proj1")


def test_errors_do_not_quote_values() -> None:
    with pytest.raises(ScriptError) as caught:
        render("#!/bin/bash\n{{ {}[account] + account.index('?') }}", account="private-thing")
    assert "private-thing" not in str(caught.value)


# --- names, ticket, launcher


@given(st.text(min_size=1))
def test_every_seed_gives_one_valid_name(seed: str) -> None:
    name = script.job_name(seed)
    assert re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,14}", name)
    assert name == script.job_name(seed)
    assert script.job_name(name) == name


def test_different_hubs_have_different_names() -> None:
    names = {script.job_name(f"https://hub{n}.example.org/") for n in range(1000)}
    assert len(names) == 1000


@pytest.mark.parametrize("name", ["", "sixteen-letters-", "a b", "a|b", "a\nb"])
def test_render_refuses_a_job_name_that_filters_or_pbs_would_not_take(name: str) -> None:
    with pytest.raises(ScriptError, match="job name"):
        script.render("{{cmd}}", values={}, job_name=name, scheduler="slurm", ticket=TICKET)


def test_the_ticket_is_the_documented_json() -> None:
    assert json.loads(base64.urlsafe_b64decode(TICKET)) == {
        "url": "http://hub/hub/api/firecrest/job",
        "ticket": "0123456789abcdef.secret",
        "patience": 60,
        "unknown_patience": 86400,
    }


def test_the_packed_launcher_is_the_launcher_and_small() -> None:
    packed = script.pack_launcher()
    source = Path(script.__file__).with_name("singleuser.py").read_bytes()
    assert zlib.decompress(base64.b64decode(packed)) == source
    assert len(packed) < 16_000
    assert packed is script.pack_launcher()


def test_the_command_is_short_fixed_and_names_any_interpreter() -> None:
    command = script.launcher_command()
    assert len(command) < 800
    assert "\n" not in command
    assert command.startswith("python3 -ES -c '")
    assert script.launcher_command("/opt/my python/bin/python").startswith("'/opt/my python/bin")
    assert TICKET not in command
