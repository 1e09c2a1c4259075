"""How do the demo issuer's clients learn that a session has ended (Back-Channel Logout 1.0)?"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import httpx

from firecrestspawner.demo.issuer_accounts import DemoClient
from firecrestspawner.demo.issuer_sessions import Session
from firecrestspawner.demo.issuer_tokens import TokenMint

log = logging.getLogger("firecrestspawner.demo.issuer")

#: Seconds that a client has to answer.
PATIENCE = 10.0


def notify(session: Session, clients: Mapping[str, DemoClient], mint: TokenMint) -> list[int]:
    """Send a logout token to each client of an ended session that has an address for it.

    The answers' statuses; 0 for a client that did not answer. Nothing is sent twice.
    """
    statuses = []
    for client_id in sorted({chain.client_id for chain in session.chains.values()}):
        client = clients[client_id]
        if client.backchannel_logout_url:
            token = mint.logout_token(client, session.username, session.sid)
            statuses.append(_post(client.backchannel_logout_url, token))
            log.info("back-channel logout of %s: %d", client_id, statuses[-1])
    return statuses


def _post(url: str, token: str) -> int:
    try:
        answer = httpx.post(url, data={"logout_token": token}, trust_env=False, timeout=PATIENCE)
    except httpx.HTTPError:
        return 0
    return answer.status_code
