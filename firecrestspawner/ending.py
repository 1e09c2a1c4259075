"""What the Hub knows of one server's end, and how that survives a restart.

An :class:`Ending` becomes one sealed string for ``orm_spawner.state``: its words may be a user's
own (S1), such as what their job said at its end. The lines of a log are not stored: whoever wants
them has them read again, with the user's token, from the path that is.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any

from .causes import Cause
from .output import Output
from .spawn import Open, Seal

#: Characters of each text that are stored. No sentence of ours is as long; what a site's own hooks
#: say may be.
ROOM = 1000


@dataclass(frozen=True)
class Ending:
    """One end, noticed ``at`` (Unix seconds). ``happened`` is a sentence; ``retry`` is what a form
    of the same choice posts, or None where that is not known.
    """

    cause: Cause
    happened: str
    spawn_id: str = ""
    system: str = ""
    job_id: str = ""
    output: Output = field(default_factory=lambda: Output(""), repr=False)
    retry: tuple[tuple[str, str], ...] | None = None
    at: float = 0.0

    @property
    def when(self) -> str:
        """In words; empty when it is not known."""
        return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(self.at)) if self.at else ""

    def to_state(self, user: str, seal: Seal) -> str:
        """As it is stored for a server of the Hub's user ``user``."""
        texts = (*self.cause, self.happened, self.spawn_id, self.system, self.job_id)
        kept = [text[:ROOM] for text in texts]
        return seal(json.dumps([user, self.at, self.output.path, *kept]).encode())

    @classmethod
    def from_state(cls, stored: Any, user: str, unseal: Open) -> Ending:
        """Raises ValueError when it is none of ours, of this user, or sealed with a lost key."""
        try:
            owner, at, path, name, sentence, advice, *rest = json.loads(unseal(stored))
            happened, spawn_id, system, job_id = map(str, rest)
            cause = Cause(str(name), str(sentence), str(advice))
            at = float(at)
        except (AttributeError, TypeError) as error:
            raise ValueError(f"the stored end cannot be read: {error}") from None
        if owner != user:
            # Renamed by an admin, and the name another's now; they must not read the first one's.
            raise ValueError("it is of a user of another name")
        return cls(cause, happened, spawn_id, system, job_id, Output(str(path)), at=at)
