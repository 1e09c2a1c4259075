"""Can anything a user chooses change what a batch script does, and does every script carry a server?"""

from __future__ import annotations

import base64
import json
import re
import shlex
import shutil
import string
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from firecrestspawner import script
from firecrestspawner.script import ScriptError, Trusted

TICKET = script.encode_ticket("http://hub/hub/api/firecrest/job", "0123456789abcdef.secret", 60)
NAME = "jhub-test"
BASH = shutil.which("bash") or "bash"


def render(template: str | Path, scheduler: script.Scheduler = "slurm", **values: object) -> str:
    return script.render(
        template, values=values, job_name=NAME, scheduler=scheduler, ticket=TICKET
    )


def directives(text: str, word: str = "#SBATCH") -> list[str]:
    """What the scheduler reads, by sbatch(1)'s rule, written anew here."""
    found = []
    for line in text.split("\n"):
        if line.strip() and not line.lstrip().startswith("#"):
            break
        if line.startswith(word):
            found.append(line)
    return found


def run(text: str, cwd: Path, *variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["env", "-i", f"PATH={Path(sys.executable).parent}:/usr/bin:/bin", *variables, BASH],
        input=text,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=20,
    )


# Whatever a form field can hold, with a bias towards what shells and schedulers care about.
hostile = st.one_of(
    st.text(),
    st.text(alphabet="\"'`$(){}[];&|<>\\\n\t #!*?~=-%aZ0", min_size=1),
    st.sampled_from(
        [
            "$(touch pwned)",
            "`touch pwned`",
            "'; touch pwned; '",
            '"; touch pwned; "',
            "x\ntouch pwned\n",
            "x\n#SBATCH --uid=0\n",
            "EOF\ntouch pwned\n",
            "normal --uid=0",
            "{{ 7 * 7 }}",
            "\ue000" + b"touch pwned".hex() + "\ue001",
            "\u2028#SBATCH --uid=0",
        ]
    ),
)
EVERYWHERE = """\
#!/bin/bash
plain() { printf '%s\\0' "$@"; }
plain {{value}} >plain
plain "{{value}}" '{{value}}' $(printf %s {{value}}) `printf %s {{value}}` "$(echo "{{value}}")"
# a comment {{value}}
cat <<EOF
{{value}} "{{value}}"
