"""How secrets are kept in the Hub's database: encrypted with its CryptKeeper, or not at all."""

from __future__ import annotations

from typing import Any

from cryptography.fernet import InvalidToken
from jupyterhub.crypto import CryptKeeper, decrypt, encrypt


def seal(data: bytes) -> str:
    """Encrypt a few kilobytes for ``orm_spawner.state``; well under a millisecond."""
    keeper = CryptKeeper.instance()
    keeper.check_available()
    return keeper.fernet.encrypt(data).decode()


def unseal(text: str) -> bytes:
    """Decrypt. Raises ValueError for what was sealed with a key the Hub does not have."""
    keeper = CryptKeeper.instance()
    keeper.check_available()
    try:
        return keeper.fernet.decrypt(text.encode())
    except InvalidToken:
        raise ValueError("it was sealed with a key the Hub does not have") from None


class UserVault:
    """A user's encrypted auth_state, as tokens.Vault wants it."""

    def __init__(self, user: Any) -> None:
        self._user = user
        self.name: str = user.name

    async def load(self) -> tuple[dict[str, Any] | None, bytes | None]:
        stored = self._user.encrypted_auth_state
        if stored is None:
            return None, None
        return await decrypt(stored), stored

    async def seal(self, auth_state: dict[str, Any]) -> bytes:
        return await encrypt(auth_state)

    def swap(self, old: bytes | None, new: bytes) -> bool:
        if self._user.encrypted_auth_state != old:
            return False
        self._user.encrypted_auth_state = new
        self._user.db.commit()
        return True
