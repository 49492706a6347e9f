"""Which store a command is about to act on: whether somebody has named it, and the role, and what `--backend` stands for.

Rule: the default, a file, is for who has named nothing at all. Who has named a server for other roles has forgotten DATABASE_URL,
and a deployment must not be green because a file was migrated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmspell.errors import InvalidSetting, Unsupported

if TYPE_CHECKING:
    from llmspell.settings import Settings

BACKENDS = ("memory", "sqlite", "postgres", "postgresql")
"""What `--backend` takes; the last two are the same (AMB-126)."""


def url_of_backend(settings: Settings, backend: str | None) -> str:
    """Return the URL of the configured store of `backend`, whatever the store in use is; None stands for that.

    Raises:
        InvalidSetting: no store of that backend is configured.
    """
    wanted = "postgresql" if backend == "postgres" else backend
    if wanted in (None, settings.storage.backend):
        return settings.storage.url
    if wanted == "memory":
        return "memory://"
    if wanted == "sqlite":
        from llmspell.settings import default_store_url

        return default_store_url()
    if settings.storage.postgres.url is None:
        raise InvalidSetting("No PostgreSQL is configured.", hint="Set storage.postgres.url or DATABASE_URL.")
    return settings.storage.postgres.url


def in_folder(folder: str) -> str:
    """Return the URL of a store in a file of a folder."""
    from urllib.parse import quote

    return f"sqlite:///{quote(folder)}/store.db"


def without_migrating(settings: Settings) -> Settings:
    """Return the settings for whoever only looks: a server is not migrated when it is opened."""
    from msgspec.structs import replace

    server = replace(settings.storage.postgres, auto_migrate=False)
    return replace(settings, storage=replace(settings.storage, postgres=server))


def require_named_store(settings: Settings) -> None:
    """Refuse the default file where a server is named for the owner or the operator.

    Raises:
        InvalidSetting: names what is there, and the variable that is missing.
    """
    server = settings.storage.postgres
    if settings.origin("storage.url") != "default" or not (server.admin_url or server.operator_url):
        return
    role, key = ("owner", "admin_url") if server.admin_url else ("operator", "operator_url")
    raise InvalidSetting(
        f"A server is named for the {role} ({settings.origin(f'storage.postgres.{key}')}), but no store: the default is a file,"
        " which is hardly what you mean. Nothing was done.",
        hint="Set DATABASE_URL to the server as the serving role; or name the file: --store sqlite:///…",
    )


def require_owner_url(settings: Settings, *, without_server: str, as_owner: str) -> str:
    """Return the URL of the role that owns the schema of a server.

    `without_server` says why a store that is none has nothing to do here, `as_owner` what needs that role.

    Raises:
        Unsupported: the store is not a server.
        InvalidSetting: no such URL is configured.
    """
    if settings.storage.backend != "postgresql":
        raise Unsupported(without_server, hint="Name a server: --store postgresql://…")
    if settings.storage.postgres.admin_url is None:
        raise InvalidSetting(
            f"{as_owner} as the role that owns the schema, and no URL of it is configured.",
            hint="Set DATABASE_ADMIN_URL, or storage.postgres.admin_url.",
        )
    return settings.storage.postgres.admin_url
