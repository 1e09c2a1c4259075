"""How secrets are kept in the Hub's database: encrypted with its CryptKeeper, or not at all."""

from __future__ import annotations

from typing import Any

from cryptography.fernet import InvalidToken
from jupyterhub.crypto import CryptKeeper, EncryptionUnavailable, decrypt, encrypt
from sqlalchemy.exc import SQLAlchemyError


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
        try:
            state = await decrypt(stored)
        # A lost or changed JUPYTERHUB_CRYPT_KEY, or what was damaged: as good as not stored.
        except (InvalidToken, EncryptionUnavailable, ValueError):
            return None, stored
        return (state if isinstance(state, dict) else None), stored

    async def seal(self, auth_state: dict[str, Any]) -> bytes:
        return await encrypt(auth_state)

    def swap(self, old: bytes | None, new: bytes | None) -> bool:
        for last in (False, True):
            if self._user.encrypted_auth_state != old:
                break
            if new == old:
                return True
            self._user.encrypted_auth_state = new
            try:
                self._user.db.commit()
            except SQLAlchemyError:
                self._user.db.rollback()
                # The issuer has rotated already: a database connection that broke meanwhile must
                # not cost the user a login, and the next one is a new one.
                if last:
                    raise
            else:
                return True
        return False
