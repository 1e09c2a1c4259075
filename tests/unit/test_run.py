"""Does `make test` look at every test there is?"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import run


def test_every_test_of_the_project_belongs_to_a_tier():
    assert run._in_no_tier() == []


def test_a_test_that_no_tier_runs_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(run, "ROOT", tmp_path)
    for name in ("unit/test_a.py", "slurm/test_b.py", "lost/test_c.py"):
        path = tmp_path / "tests" / name
        path.parent.mkdir(parents=True)
        path.write_text("")
    assert run._in_no_tier() == ["tests/lost/test_c.py belongs to no tier"]
