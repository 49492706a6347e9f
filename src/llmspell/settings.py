"""Settings: read once, checked, frozen; each value knows where it came from.

    defaults < system file < user file < project file (`llmspell.toml`, walking up) < environment < arguments

Not here: what a setting does. A part of llmspell gets its section of `Settings` and reads nothing else.

Rule 1: files and environment variables are read in this module only (the user's folders: `directories`), and only when a
        function here is called.
Rule 2: an unknown key is an error that names file, line and the likely key; a value that does not fit is refused.
Rule 3: secrets are `Secret`, or URLs whose password is masked; no `repr` and no error shows them.
Rule 4: a key that belongs to a later part of llmspell is accepted and checked, and marked "no effect yet" wherever it
        is shown.
"""

from __future__ import annotations

import difflib
import functools
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, get_args
from urllib.parse import quote

import msgspec

from llmspell._sections import (
    MASK,
    BackupSettings,
    ContextSettings,
    EmbeddingSettings,
    HnswSettings,
    JobsSettings,
    MemorySettings,
    MonitoringSettings,
    MultiTenantSettings,
    RagSettings,
    RetentionSettings,
    Secret,
    Section,
    SecuritySettings,
    ServerSettings,
    Setting,
    StateSettings,
    TemplatesSettings,
    TenancySettings,
    TextSettings,
    TransactionSettings,
    about,
    later,
    limit_in_words,
    masked,
)
from llmspell._store_sections import PostgresSettings, SqliteSettings
from llmspell.directories import directories
from llmspell.errors import ConfigError, InvalidSetting, InvalidUrl, UnknownSetting, shown

__all__ = [
    "Settings", "load_settings", "Secret", "config_files", "default_store_url", "schema",
    "find_setting", "Setting", "masked", "MASK", "colour_preference", "log_level",
    "StorageSettings", "PostgresSettings", "SqliteSettings", "TenancySettings", "EmbeddingSettings", "TextSettings",
    "ContextSettings", "TransactionSettings", "MonitoringSettings", "SecuritySettings", "provider_key",
    "JobsSettings", "HnswSettings", "BackupSettings",
]  # fmt: skip

PREFIX: Final = "LLMSPELL_"
SYSTEM_FILE: Final = Path("/etc/llmspell/production.toml")  # CFG-01
USER_FILE_NAME: Final = "config.toml"  # CFG-02
PROJECT_FILE_NAME: Final = "llmspell.toml"
FILE_MAX_BYTES: Final = 1_048_576
WALK_UP_MAX: Final = 64


def default_store_url(environ: Mapping[str, str] | None = None) -> str:
    """Return the URL of the per-user file (BKE-05): `llmspell.db` in the data directory."""
    path = (directories(environ).data / "llmspell.db").as_posix()
    return "sqlite:///" + quote(path.removeprefix("/"), safe="/:") if os.name == "nt" else "sqlite:///" + quote(path)


# --- the schema -------------------------------------------------------------------------------------------------------


class StorageSettings(Section, frozen=True, kw_only=True):
    """Where everything is kept (CFG-02, CFG-04)."""

    url: Annotated[
        str,
        about(
            "The store: memory://, sqlite:///FILE or postgresql://… Unset: llmspell.db in your data directory.",
            row="BKE-05",
            url=True,
        ),
    ] = msgspec.field(default_factory=default_store_url)
    backend: Annotated[
        Literal["memory", "sqlite", "postgresql"] | None,
        about(
            "Chooses the store when no `url` does; `state_backend` is the same key, `postgres` the same value.",
            row="CFG-04",
        ),
    ] = None
    vector_backend: Annotated[
        Literal["hnsw", "exact"],
        about(
            "How an embedded store finds neighbours: `hnsw` keeps an index of large spaces, `exact` never builds one.",
            row="CFG-04",
        ),
    ] = "hnsw"
    vector_path: Annotated[
        str | None,
        about(
            "Directory of the vector index files of an embedded store. Unset: beside its file, named like it and `.vectors`.",
            row="VEC-12",
        ),
    ] = None
    cache_backend: Annotated[Literal["memory", "redis"] | None, later("Shared cache.", row="CFG-04")] = None
    cache_url: Annotated[str | None, later("URL of the shared cache.", row="CFG-04", url=True)] = None
    postgres: PostgresSettings = PostgresSettings()
    sqlite: SqliteSettings = SqliteSettings()


class PerformanceSettings(Section, frozen=True, kw_only=True):
    """Sizes of buffers and batches (BKE-16)."""

    event_buffer_size: Annotated[int, later("Events held before they are written.", row="BKE-16", ge=1)] = 10_000
    state_backend: Annotated[
        Literal["memory", "sqlite", "postgresql"], later("Use `storage.backend`.", row="BKE-16")
    ] = "sqlite"
    migration_batch_size: Annotated[int, later("Rows per batch when data moves.", row="BKE-16", ge=1)] = 1_000


class Settings(Section, frozen=True, kw_only=True):
    """Everything that can be configured. `Settings()` is the defaults; `load_settings()` reads files and variables."""

    tenant_id: Annotated[
        str, about("The tenant that the command line acts for.", row="CFG-08", min_length=1, max_length=128)
    ] = "default"
    storage: StorageSettings = msgspec.field(default_factory=StorageSettings)
    tenancy: TenancySettings = TenancySettings()
    embedding: EmbeddingSettings = EmbeddingSettings()
    text: TextSettings = TextSettings()
    context: ContextSettings = ContextSettings()
    transaction: TransactionSettings = TransactionSettings()
    state: StateSettings = StateSettings()
    retention: RetentionSettings = RetentionSettings()
    jobs: JobsSettings = JobsSettings()
    backup: BackupSettings = BackupSettings()
    monitoring: MonitoringSettings = MonitoringSettings()
    memory: MemorySettings = MemorySettings()
    multi_tenant: MultiTenantSettings = MultiTenantSettings()
    rag: RagSettings = RagSettings()
    performance: PerformanceSettings = PerformanceSettings()
    security: SecuritySettings = SecuritySettings()
    templates: TemplatesSettings = TemplatesSettings()
    server: ServerSettings = ServerSettings()
    origins: dict[str, str] = msgspec.field(default_factory=dict)

    def origin(self, key: str) -> str:
        """Return where the value of `key` ("storage.url") came from: "default", file and line, variable or argument.

        Raises:
            UnknownSetting: there is no such key.
        """
        return self.origins.get(find_setting(key).key, "default")

    def value(self, key: str) -> Any:
        """Return the value of a dotted key.

        Raises:
            UnknownSetting: there is no such key.
        """
        return functools.reduce(getattr, find_setting(key).key.split("."), self)


@functools.cache
def schema() -> dict[str, Setting]:
    """Return every setting by its dotted key, in the order of the sections."""
    return {setting.key: setting for setting in _walk(Settings, "")}


def _walk(section: type[Section], prefix: str) -> Iterator[Setting]:
    for field in msgspec.structs.fields(section):
        if isinstance(field.type, type) and issubclass(field.type, Section):
            yield from _walk(field.type, f"{prefix}{field.name}.")
        elif field.name != "origins":
            base, meta = get_args(field.type)
            default = None if field.default is msgspec.NODEFAULT else field.default  # it depends on the machine
            secret = meta.extra["url"] or Secret in get_args(base)
            yield Setting(
                prefix + field.name, field.type, default, meta.description, limit_in_words(base, meta),
                meta.extra["row"], secret, meta.extra["later"],
            )  # fmt: skip


# AMB-040 and AMB-126: three older schemas name the same things differently.
_ALIASES: Final = {
    "storage.postgresql": "storage.postgres",
    "storage.state_url": "storage.url",
    "storage.state_backend": "storage.backend",
}
_VALUE_ALIASES: Final = {"postgres": "postgresql", "warn": "warning"}
_SCHEMES: Final = {"memory": "memory", "sqlite": "sqlite", "postgres": "postgresql", "postgresql": "postgresql"}
URL_HINT: Final = "Use memory://, sqlite:///path/to/file.db or postgresql://user@host/database."
_VARIABLES: Final = {
    "DATABASE_URL": "storage.postgres.url",
    "DATABASE_ADMIN_URL": "storage.postgres.admin_url",
    "DATABASE_OPERATOR_URL": "storage.postgres.operator_url",
    "OPENAI_API_KEY": "embedding.api_key",
    "LLMSPELL_LOG": "monitoring.logs_level",
    "LLMSPELL_MASTER_KEY": "security.master_keys",
    "LLMSPELL_TENANT_KEY": "storage.postgres.tenant_key",
}
_OPENAI_HOST: Final = re.compile(r"https://api\.openai\.com(?::443)?(?:/|$)")
_REFERENCE: Final = re.compile(r"\$(\$\{)|\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_RANK_VARIABLE, _RANK_ENVIRONMENT, _RANK_ARGUMENT = 100, 101, 102


def find_setting(key: str) -> Setting:
    """Return the setting of a dotted key or of its alias.

    Raises:
        UnknownSetting: there is none; the hint names the likely one.
    """
    found = schema().get(_canonical(key.split(".")))
    if found is None:
        raise _unknown(key, "")
    return found


def _canonical(parts: list[str]) -> str:
    key = ""
    for part in parts:
        key = f"{key}.{part}" if key else part
        key = _ALIASES.get(key, key)
    return key


def _unknown(key: str, origin: str, write: Callable[[str], str] = str) -> UnknownSetting:
    names = {*schema(), *_sections(), *_ALIASES}
    head, _, leaf = key.rpartition(".")
    near = difflib.get_close_matches(key, names, n=1, cutoff=0.75) or [
        name for name in schema() if name.rpartition(".")[2] == leaf
    ]
    neighbours = {name.rpartition(".")[2]: name for name in names if name.rpartition(".")[0] == head}
    near += [neighbours[name] for name in difflib.get_close_matches(leaf, neighbours, n=1, cutoff=0.5)]
    hint = f"Did you mean `{write(near[0])}`?" if near else "`llmspell config show` lists every setting."
    return UnknownSetting(f"there is no setting `{write(key)}`" + (f" ({origin})." if origin else "."), hint=hint)


@functools.cache
def _sections() -> frozenset[str]:
    return frozenset(key[:dot] for key in schema() for dot in (m.start() for m in re.finditer(r"\.", key)))


# --- reading ----------------------------------------------------------------------------------------------------------


class _Given(NamedTuple):
    """A value as it was found, before it is checked."""

    value: Any
    origin: str
    rank: int
    lenient: bool = False
    """It was text in the first place, so "20" is a number and "true" a truth value."""


def load_settings(
    path: Path | str | None = None,
    overrides: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    *,
    start: Path | None = None,
) -> Settings:
    """Read the configuration once, check it, and return it frozen (CFG-09).

    `path` (or `LLMSPELL_CONFIG`) is then the only file that is read; it must exist. `overrides` maps dotted keys to
    values and wins over everything. `environ` is `os.environ` unless given. `start` is where the search for
    `llmspell.toml` begins, upwards: the working directory unless given.

    Raises:
        UnknownSetting: a key that no setting has, in a file, a variable or `overrides`.
        InvalidSetting: a value of the wrong type or out of range, a `${VARIABLE}` that is not set, a contradiction.
        InvalidUrl: `storage.url` is not the URL of a store.
        ConfigError: a file cannot be read or is not TOML.
    """
    environ = os.environ if environ is None else environ
    given: dict[str, _Given] = {}
    chosen = path or environ.get("LLMSPELL_CONFIG") or None
    for rank, file in enumerate([Path(chosen)] if chosen else config_files(environ, start=start)):
        given.update(_secrets_from_files(_from_file(file, rank, environ), file.parent))
    given.update(_secrets_from_files(_from_environment(environ), Path()))
    for key, value in (overrides or {}).items():
        given[find_setting(key).key] = _Given(value, "argument", _RANK_ARGUMENT, lenient=isinstance(value, str))
    base_url = given.get("embedding.base_url")
    key_given = given.get("embedding.api_key")
    if key_given and key_given.rank == _RANK_VARIABLE and base_url and not _OPENAI_HOST.match(str(base_url.value)):
        del given["embedding.api_key"]  # a key for one host is never sent to another because a file names another
    values = {key: _checked(key, found) for key, found in given.items()}
    origins = {key: found.origin for key, found in given.items()}
    _choose_store(values, origins, given, environ)
    built: Settings = _build(Settings, "", {**values, "origins": origins})
    return built


def config_files(environ: Mapping[str, str] | None = None, *, start: Path | None = None) -> list[Path]:
    """Return the configuration files that exist, weakest first: system, user, project."""
    candidates = [SYSTEM_FILE, directories(environ).config / USER_FILE_NAME]
    here = (start or Path.cwd()).resolve()
    candidates += [f for f in (d / PROJECT_FILE_NAME for d in [here, *here.parents][:WALK_UP_MAX]) if f.is_file()][:1]
    return [candidate for candidate in candidates if candidate.is_file()]


def _from_file(file: Path, rank: int, environ: Mapping[str, str]) -> dict[str, _Given]:
    text = _read(file, f"the configuration file {file}")
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{file} is not TOML: {exc}.") from exc
    given: dict[str, _Given] = {}
    for parts, value in _flatten(table, [], file, text):
        key, origin = _canonical(parts), _place(file, text, parts)
        if key in given:
            raise InvalidSetting(f"`{key}` is given twice ({given[key].origin}; {origin}).", hint="Keep one of them.")
        expanded = _expand(key, value, origin, environ) if isinstance(value, str) else value
        lenient = expanded != value
        if key == "storage.url" and isinstance(expanded, str):
            expanded = _beside(file, expanded)
        if key in ("storage.vector_path", "backup.folder") and isinstance(expanded, str) and expanded:
            expanded = str(file.resolve().parent / Path(expanded).expanduser())
        given[key] = _Given(expanded, origin, rank, lenient=lenient)
    return given


def _beside(file: Path, url: str) -> str:
    """Read a relative file in a URL from where the configuration file is: the same store from every directory."""
    scheme, mark, path = url.partition(":///")
    if scheme != "sqlite" or not mark or not path or path.startswith(("/", ":")) or Path(path).is_absolute():
        return url
    return f"{scheme}:///{quote(file.resolve().parent.as_posix(), safe='/:')}/{path}"


def _flatten(table: dict[str, Any], parts: list[str], file: Path, text: str) -> Iterator[tuple[list[str], Any]]:
    for name, value in table.items():
        inner = [*parts, name]
        key = _canonical(inner)
        if key in _sections():
            if not isinstance(value, dict):
                raise InvalidSetting(f"`{key}` must be a table; got {shown(value)}.", hint=_place(file, text, inner))
            yield from _flatten(value, inner, file, text)
        elif key in schema() or _names_secret_file(key):
            yield inner, value
        else:
            raise _unknown(".".join(inner), _place(file, text, inner))


def _place(file: Path, text: str, parts: list[str]) -> str:
    """Name the file and, as far as a look at its lines can tell, the line of a key or a table."""
    section: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[\s*([^\[\]]+?)\s*\]", line):
            here = section = [part.strip(" \"'") for part in header[1].split(".")]
        elif entry := re.match(r"\s*([\w.\"' -]+?)\s*=", line):
            here = section + [part.strip(" \"'") for part in entry[1].split(".")]
        else:
            continue
        if here[: len(parts)] == parts or (not header and here == parts[: len(here)]):
            return f"{file}, line {number}"
    return str(file)


def _expand(key: str, value: str, origin: str, environ: Mapping[str, str]) -> str:
    """Replace `${NAME}` and `${NAME:-default}` (CFG-03); `$${` stands for `${`."""

    def replace(match: re.Match[str]) -> str:
        escaped, name, default = match.groups()
        if escaped:
            return "${"
        if found := environ.get(name) or default:
            return str(found)
        if name in environ or default == "":
            return ""
        raise InvalidSetting(
            f"`{key}` refers to the variable {name}, which is not set ({origin}).",
            hint=f"Set {name}, or write ${{{name}:-a default}}.",
        )

    return _REFERENCE.sub(replace, value)


def _from_environment(environ: Mapping[str, str]) -> dict[str, _Given]:
    """Read `LLMSPELL_SECTION__KEY` and the few variables with names of their own. Empty counts as not set."""
    given: dict[str, _Given] = {}
    for variable, key in _VARIABLES.items():
        for name in (variable, f"{variable}_FILE"):
            value = environ.get(name)
            # DATABASE_URL is everybody's name: another program's database is not ours to open.
            if value and not (name == "DATABASE_URL" and _backend_of(value) != "postgresql"):
                suffix = name.removeprefix(variable).lower()
                given[key + suffix] = _Given(value, f"variable {name}", _RANK_VARIABLE, lenient=True)
    explicit: dict[str, _Given] = {}
    for name in sorted(environ):
        key = _canonical(name.removeprefix(PREFIX).lower().split("__"))
        # Names without `__` belong to others too: a cluster makes LLMSPELL_PORT for a service called llmspell.
        if not name.startswith(PREFIX) or not environ[name] or ("__" not in name and key not in schema()):
            continue
        if key not in schema() and not _names_secret_file(key):
            raise _unknown(key, "environment", lambda k: PREFIX + k.upper().replace(".", "__"))
        explicit[key] = _Given(environ[name], f"variable {name}", _RANK_ENVIRONMENT, lenient=True)
    for key in explicit:  # an explicit `…__URL` also replaces a fallback that names a file, and the reverse
        given.pop(key.removesuffix("_file"), None)
        given.pop(f"{key}_file", None)
    return {**given, **explicit}


def _names_secret_file(key: str) -> bool:
    found = schema().get(key.removesuffix("_file"))
    return key.endswith("_file") and found is not None and found.secret


def _secrets_from_files(given: dict[str, _Given], folder: Path) -> dict[str, _Given]:
    """Replace each `…_file` of one layer by the content of the file it names, without the line end."""
    result = {key: found for key, found in given.items() if not _names_secret_file(key)}
    for key in given.keys() - result.keys():
        found, target = given[key], key.removesuffix("_file")
        if target in result:
            raise InvalidSetting(f"`{target}` and `{key}` are both given ({found.origin}).", hint="Keep one of them.")
        if not isinstance(found.value, str):
            raise InvalidSetting(
                f"`{key}` must name a file; got {shown(found.value)}.", hint=f"It is set by {found.origin}."
            )
        file = folder / found.value
        content = _read(file, f"the file {file} that `{key}` names ({found.origin})").rstrip("\r\n")
        result[target] = _Given(content, f"file {file} ({found.origin})", found.rank, lenient=True)
    return result


def _read(file: Path, what: str) -> str:
    try:
        with file.open("rb") as stream:
            content = stream.read(FILE_MAX_BYTES + 1)
        if len(content) > FILE_MAX_BYTES:
            raise ConfigError(f"{what} is larger than {FILE_MAX_BYTES:,} bytes.")
        return content.decode("utf-8")
    except OSError as exc:
        raise ConfigError(f"cannot read {what}: {exc.strerror or exc}.") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{what} is not UTF-8 (byte {exc.start}).") from exc


# --- checking ---------------------------------------------------------------------------------------------------------


def _checked(key: str, given: _Given) -> Any:
    """Convert a value to the type of its setting.

    Raises:
        InvalidSetting: it does not fit; the message has the limit, and the value unless it is secret.
    """
    setting, value = schema()[key], given.value
    if isinstance(value, str) and setting.limit.startswith("one of "):
        value = _VALUE_ALIASES.get(value.lower(), value)
        options = setting.limit.removeprefix("one of ").split(", ")
        value = next((option for option in options if option.lower() == value.lower()), value)
    elif isinstance(value, str) and setting.limit.endswith(" or off") and value.lower() == "off":
        value = "off"
    try:
        lenient = given.lenient or isinstance(value, Path)
        number = msgspec.convert(value, setting.kind, strict=not lenient, dec_hook=_decode)
        if isinstance(number, float) and number - number != 0:
            raise msgspec.ValidationError("not finite")
        return number
    except msgspec.ValidationError as exc:
        got = "" if setting.secret else f"; got {shown(value)}"
        raise InvalidSetting(f"`{key}` must be {setting.limit}{got}.", hint=f"It is set by {given.origin}.") from exc


def _decode(kind: type, value: Any) -> Any:
    if kind is Secret and isinstance(value, (str, Secret)):
        return value if isinstance(value, Secret) else Secret(value)
    raise msgspec.ValidationError("must be text")


def _backend_of(url: str) -> str | None:
    return _SCHEMES.get(url.partition(":")[0].lower()) if ":" in url else None


def _choose_store(
    values: dict[str, Any], origins: dict[str, str], given: dict[str, _Given], environ: Mapping[str, str]
) -> None:
    """Settle `storage.url` and `storage.backend`: the stronger source decides, a server is used when named."""
    url, backend, server = (given.get(f"storage.{name}") for name in ("url", "backend", "postgres.url"))
    wanted = values.get("storage.backend")
    if url is not None:
        actual = _backend_of(values["storage.url"])
        if actual is None:
            raise InvalidUrl(
                f"`storage.url` is not the URL of a store; got {shown(masked(values['storage.url']))} ({url.origin}).",
                hint=URL_HINT,
            )
        if backend is None or wanted == actual or url.rank > backend.rank:
            values["storage.backend"], origins["storage.backend"] = actual, "follows storage.url"
            return
        if backend.rank == url.rank:
            raise InvalidSetting(
                f"`storage.backend` is {wanted} ({backend.origin}), but `storage.url` names {actual} ({url.origin}).",
                hint="Keep one of them.",
            )
    if wanted is None and server is not None:
        wanted, origins["storage.backend"] = "postgresql", "follows storage.postgres.url"
    if wanted == "postgresql":
        if server is None:
            raise InvalidSetting(
                f"`storage.backend` is postgresql ({origins['storage.backend']}), but no server is named.",
                hint="Set storage.postgres.url or DATABASE_URL.",
            )
        values["storage.url"], origins["storage.url"] = values["storage.postgres.url"], server.origin
    elif wanted == "memory":
        values["storage.url"], origins["storage.url"] = "memory://", "follows storage.backend"
    else:
        values["storage.url"] = default_store_url(environ)
        origins["storage.url"] = "default" if wanted is None else "follows storage.backend"
    values["storage.backend"] = wanted or "sqlite"
    origins.setdefault("storage.backend", "follows storage.url")


def _build(section: type[Section], prefix: str, values: dict[str, Any]) -> Any:
    given: dict[str, Any] = {}
    for field in msgspec.structs.fields(section):
        key = prefix + field.name
        if isinstance(field.type, type) and issubclass(field.type, Section):
            given[field.name] = _build(field.type, f"{key}.", values)
        elif key in values:
            given[field.name] = values[key]
    return section(**given)


# --- the process's environment, for the command line ------------------------------------------------------------------


def colour_preference(environ: Mapping[str, str] | None = None) -> bool | None:
    """Return what the user said about colour: `NO_COLOR` wins over `FORCE_COLOR`; None when neither is set."""
    environ = os.environ if environ is None else environ
    if environ.get("NO_COLOR"):
        return False
    return True if environ.get("FORCE_COLOR") else None


def provider_key(provider: str, environ: Mapping[str, str] | None = None) -> Secret | None:
    """Return the key of a model provider from `<PROVIDER>_API_KEY` (SCR-01), or None; empty counts as not set."""
    name = re.sub(r"[^A-Z0-9]", "_", provider.upper()) + "_API_KEY"
    value = (os.environ if environ is None else environ).get(name)
    return Secret(value) if value else None


def log_level(environ: Mapping[str, str] | None = None) -> str:
    """Return `LLMSPELL_LOG`, unchecked, for the moment before settings can be loaded."""
    return (os.environ if environ is None else environ).get("LLMSPELL_LOG", "warning").lower()
