"""Which FirecREST is asked in the tests of the client, and what must each of its errors be?"""

from __future__ import annotations

import traceback
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import httpx
import pytest
from firecrest.FirecrestException import FirecrestException

from firecrestspawner.demo.executors import LocalExecutor
from firecrestspawner.demo.firecrest import FirecREST as StandIn
from firecrestspawner.demo.firecrest import System
from firecrestspawner.demo.issuer import Issuer
from firecrestspawner.errors import (
    FirecRESTError,
)
from firecrestspawner.models import JobRequest, Secret

SCRIPT = "#!/bin/bash\n#SBATCH --job-name=hub-x\nsleep 60\n"
REQUEST = JobRequest("/home/alice", Secret(SCRIPT))
SECRET = "ticket-0123456789-very-secret"


class Site:
    """An issuer and a stand-in whose cluster starts no job."""

    def __init__(self, directory: Path) -> None:
        self.issuer = Issuer().start()
        self.executor = LocalExecutor(directory / "ssh", hold=True, max_submit=2)
        self.rest_executor = LocalExecutor(directory / "rest", hold=True)
        self.standin = StandIn(
            f"{self.issuer.url}/protocol/openid-connect/certs",
            [
                System("demo", self.executor),
                System("rested", self.rest_executor, connection_mode="rest"),
            ],
        ).start()
        self.alice = Secret(self.issuer.log_in("alice")["access_token"])
        self.service = Secret(self.issuer.service_token()["access_token"])

    def close(self) -> None:
        self.standin.close()
        self.issuer.stop()


async def failure(call: Awaitable[Any], kind: type[FirecRESTError]) -> FirecRESTError:
    """The error of a call, after looking at what every error has to be."""
    with pytest.raises(FirecRESTError) as caught:
        await call
    error = caught.value
    assert type(error) is kind, f"{type(error).__name__}: {error.detail}"
    assert error.message.endswith(".") and "\n" not in error.message
    assert error.detail and "\n" not in error.detail
    # S9: exceptions of pyfirecrest and httpx carry headers and bodies.
    assert error.__cause__ is None
    assert error.__suppress_context__ or not isinstance(
        error.__context__, FirecrestException | httpx.HTTPError
    )
    return error


def shown(error: BaseException, log: pytest.LogCaptureFixture) -> str:
    """Everything a log or a page could show of an error, and what was logged anyway."""
    return "\n".join([*traceback.format_exception(error), repr(vars(error)), log.text])
