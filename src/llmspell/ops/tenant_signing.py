"""The strict mode of a server, for the command line: which URL and which keys, and what holds after a change.

Not here: what the mode does to the database (`storage.postgres.signing`), what a key is (`storage.postgres.tenant_key`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmspell.ops.named_store import require_owner_url

if TYPE_CHECKING:
    from llmspell.settings import Secret, Settings
    from llmspell.storage.postgres.signing import SigningStatus
    from llmspell.storage.postgres.tenant_key import TenantKey

__all__ = [
    "SigningStatus", "TenantKey", "admin_url_of", "configured_id", "configured_key", "disable", "enable", "finish", "new_key",
    "read_key", "require_enforced", "require_rotatable", "require_same_key", "rotate", "status",
]  # fmt: skip


def admin_url_of(settings: Settings) -> str:
    """Return the URL of the role that owns the schema, which alone changes the mode.

    Raises:
        Unsupported: the store is not a server.
        InvalidSetting: no such URL is configured.
    """
    return require_owner_url(
        settings,
        without_server="This store has no row-level security, so there is no tenant to sign.",
        as_owner="Signing is changed",
    )


def configured_key(settings: Settings) -> Secret | None:
    """Return the key that the application signs with."""
    return settings.storage.postgres.tenant_key


def configured_id(settings: Settings) -> str | None:
    """Return the id of the key that the application signs with.

    Raises:
        InvalidSetting: it is no key.
    """
    from llmspell.storage.postgres.tenant_key import read_tenant_key

    key = configured_key(settings)
    return None if key is None else read_tenant_key(key).id


def new_key() -> Secret:
    """Return a new key as text."""
    from llmspell.storage.postgres.tenant_key import new_tenant_key

    return new_tenant_key()


def read_key(text: Secret, *, name: str) -> TenantKey:
    """Return the key of a text; `name` is where it comes from.

    Raises:
        InvalidSetting: it is none.
    """
    from llmspell.storage.postgres.tenant_key import read_tenant_key

    return read_tenant_key(text, name=name)


def status(admin_url: str) -> SigningStatus:
    """Say what holds. Errors: as `storage.postgres.signing` says, also of the other changes."""
    from llmspell.storage.postgres import signing

    return signing.status(admin_url)


def enable(admin_url: str, key: TenantKey) -> SigningStatus:
    """Demand signatures by this key."""
    from llmspell.storage.postgres import signing

    return signing.enable(admin_url, key)


def rotate(admin_url: str, key: TenantKey) -> SigningStatus:
    """Accept this key beside the one that it replaces."""
    from llmspell.storage.postgres import signing

    return signing.rotate(admin_url, key)


def finish(admin_url: str) -> SigningStatus:
    """Accept the current key alone."""
    from llmspell.storage.postgres import signing

    return signing.finish(admin_url)


def require_same_key(found: SigningStatus, key: TenantKey) -> None:
    """Raise what `enable` would, for a dry run."""
    from llmspell.storage.postgres import signing

    signing.require_same_key(found, key)


def require_rotatable(found: SigningStatus, key: TenantKey | None) -> None:
    """Raise what `rotate` would, for a dry run; `key` None is one that is yet to be made."""
    from llmspell.storage.postgres import signing

    signing.require_rotatable(found, key)


def require_enforced(found: SigningStatus) -> None:
    """Raise what `finish` would, for a dry run."""
    from llmspell.storage.postgres import signing

    signing.require_enforced(found)


def disable(admin_url: str) -> SigningStatus:
    """Demand no signatures any more."""
    from llmspell.storage.postgres import signing

    return signing.disable(admin_url)
