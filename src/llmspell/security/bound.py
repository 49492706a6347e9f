"""What one open store has of this package: its keyring, its peppers, and the handles made with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from llmspell.clock import Clock
from llmspell.errors import MasterKeyMissing
from llmspell.ids import IdSource
from llmspell.security.access_keys import Authenticator, HashedAccessKeys, Peppers
from llmspell.security.api_keys import SealedApiKeys, Uses
from llmspell.security.keyring import Keyring, read_keyring
from llmspell.security.secrets import MountedSecrets
from llmspell.storage.contracts.access_keys import AccessKeys
from llmspell.storage.contracts.api_keys import ApiKeys
from llmspell.tenant import TenantId

if TYPE_CHECKING:
    from llmspell.settings import SecuritySettings


class StoreSecrets:
    """Makes the handles of keys, for every tenant of a store and every transaction."""

    def __init__(self, settings: SecuritySettings, clock: Clock, ids: IdSource) -> None:
        """Read the master keys.

        Raises:
            InvalidSetting: one of them cannot be read.
        """
        self.keyring = read_keyring(settings.master_keys)
        self._clock = clock
        self._ids = ids
        self._peppers = Peppers(self.keyring)
        self._uses = Uses(clock)
        self._stores = [] if settings.secrets_dir is None else [MountedSecrets(settings.secrets_dir)]

    def sealer(self, *, required: bool) -> Keyring | None:
        """Return what seals and opens values outside of the tables of keys; None without a master key.

        Raises:
            MasterKeyMissing: it is `required`.
        """
        if self.keyring.active is None:
            if required:
                raise MasterKeyMissing
            return None
        return self.keyring

    def api_keys(self, storage: ApiKeys, tenant: TenantId) -> SealedApiKeys:
        """Return the handle of a tenant's provider keys."""
        return SealedApiKeys(
            storage,
            tenant=tenant,
            keyring=self.keyring,
            clock=self._clock,
            ids=self._ids,
            uses=self._uses,
            stores=self._stores,
        )

    def access_keys(self, storage: AccessKeys, tenant: TenantId) -> HashedAccessKeys:
        """Return the handle of a tenant's access keys."""
        return HashedAccessKeys(storage, tenant=tenant, peppers=self._peppers, clock=self._clock, ids=self._ids)

    def authenticator(self, storage_of: Callable[[TenantId], AccessKeys]) -> Authenticator:
        """Return what turns presented keys of any tenant into principals."""
        return Authenticator(storage_of, self._peppers, self._clock)
