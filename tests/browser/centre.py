"""How is a site set up whose spawn form has everything: two systems, profiles, many fields?"""

from __future__ import annotations

from firecrestspawner.demo.cluster import Job
from firecrestspawner.demo.executors import LocalExecutor
from firecrestspawner.demo.firecrest import System
from firecrestspawner.demo.hub import SERVERS
from tests.journeys.site import Site

#: Without this file in their home, a user's own environment lacks jupyterhub-singleuser.
INSTALLED = "installed"
#: Shorter than the quarter of an hour before the end, in which the home page warns.
SHORT = "00:10:00"

CONFIG = f"""
import sys
c.FirecRESTSpawner.cmd = ["jupyterhub-singleuser"]
c.FirecRESTSpawner.python = sys.executable
# What is known of a user is asked again at each page.
c.FirecRESTSpawner.hint_age = 1
c.FirecRESTSpawner.environments = {{
    "centre": {{"display_name": "The centre's"}},
    "mine": {{
        "display_name": "My own",
        "prologue": "[ -e {INSTALLED} ] || PATH=/usr/bin:/bin",
    }},
}}
c.FirecRESTSpawner.systems = {{
    "demo": {{
        "display_name": "Demo (GPU)",
        "option_fields": {{
            "account": {{}},
            "partition": {{}},
            "runtime": {{"maximum": "12:00:00", "default": "01:00:00"}},
            "gpus": {{"maximum": 4}},
            "environment": {{"default": "centre"}},
        }},
    }},
    "mini": {{
        "display_name": "Mini (CPU)",
        "option_fields": {{
            "account": {{}},
            "partition": {{"choices": {{"normal": "up to a day", "debug": "half an hour"}}}},
            "runtime": {{"default": "01:00:00"}},
            "cpus": {{"choices": {{"8": "8: a quarter of a node", "32": "32: a whole node"}}}},
        }},
    }},
}}
c.FirecRESTSpawner.profile_list = [
    {{
        "display_name": "Small",
        "slug": "small",
        "description": "One CPU for an hour: starts soon",
        "default": True,
        "spawner_override": {{"system": "mini", "req_cpus": "1", "req_runtime": "01:00:00"}},
    }},
    {{
        "display_name": "GPU",
        "slug": "gpu",
        "description": "For training, and for what needs much memory",
        "spawner_override": {{"system": "demo", "environment": "centre"}},
        "profile_options": {{
            "size": {{
                "display_name": "GPUs",
                "choices": {{
                    "one": {{"display_name": "One", "spawner_override": {{"req_gpus": "1"}}}},
                    "four": {{"display_name": "Four", "spawner_override": {{"req_gpus": "4"}}}},
                }},
            }},
            "time": {{
                "display_name": "Time",
                "choices": {{
                    "hour": {{"display_name": "An hour",
                              "spawner_override": {{"req_runtime": "01:00:00"}}}},
                }},
                "unlisted_choice": {{
                    "enabled": True,
                    "display_name": "Another time",
                    "validation_regex": "0[0-9]:[0-5][0-9]:00",
                    "validation_message": "Up to ten hours, such as 02:30:00",
                    "spawner_override": {{"req_runtime": "{{value}}"}},
                }},
            }},
        }},
    }},
]
"""


class Centre(Site):
    """The demo, with a second system called ``mini``, which has a scheduler of its own."""

    mini: LocalExecutor

    def __init__(self) -> None:
        super().__init__(extra_config=CONFIG, log_level="INFO")

    def _start_services(self) -> None:
        super()._start_services()
        # Below the first one's, where the site looks for processes that were left.
        root = self.directory / "cluster" / "mini"
        self.mini = LocalExecutor(root, nodes=[("cn01", SERVERS)])
        self._cleanup.callback(self.mini.stop)
        self.firecrest.systems["mini"] = System("mini", self.mini)

    def jobs(self, user: str | None = None) -> list[Job]:
        """All jobs there ever were on either system; those of ``mini`` last."""
        jobs = [*self.executor.jobs("alice"), *self.mini.jobs("alice")]
        return [job for job in jobs if user in (None, job.user)]
