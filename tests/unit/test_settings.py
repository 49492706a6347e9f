from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from llmspell import settings as settings_module
from llmspell.errors import ConfigError, InvalidSetting, InvalidUrl, UnknownSetting
from llmspell.settings import (
    Secret,
    Settings,
    colour_preference,
    config_files,
    default_store_url,
    directories,
    load_settings,
    masked,
    schema,
)

HIDDEN = "hunter2-hunter2"


class Machine:
    """A home directory, a system file, a project and an environment that belong to one test."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.system = root / "etc" / "production.toml"
        self.user = root / "home" / ".config" / "llmspell" / "config.toml"
        self.project = root / "project" / "llmspell.toml"
        self.start = root / "project" / "deep" / "er"
        self.environ = {"HOME": str(root / "home")}
        for folder in (self.system.parent, self.user.parent, self.start):
            folder.mkdir(parents=True)

    def load(self, **overrides: object) -> Settings:
        given = {key.replace("__", "."): value for key, value in overrides.items()}
        return load_settings(overrides=given, environ=self.environ, start=self.start)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine(tmp_path)
    monkeypatch.setattr(settings_module, "SYSTEM_FILE", machine.system)
    return machine


# --- precedence and origins -------------------------------------------------------------------------------------------

SOURCES = ["default", "system", "user", "project", "environment", "argument"]


@pytest.mark.parametrize("strongest", range(len(SOURCES)))
def test_the_strongest_source_wins_and_is_named_as_the_origin(machine: Machine, strongest: int) -> None:
    key = "storage.postgres.pool_size"
    overrides = {}
    for number, source in enumerate(SOURCES[1 : strongest + 1], start=1):
        if source == "environment":
            machine.environ["LLMSPELL_STORAGE__POSTGRES__POOL_SIZE"] = f"10{number}"
        elif source == "argument":
            overrides["storage__postgres__pool_size"] = 100 + number
        else:
            getattr(machine, source).write_text(f"[storage.postgres]\npool_size = 10{number}\n")
    origin = {
        "default": "default",
        "system": f"{machine.system}, line 2",
        "user": f"{machine.user}, line 2",
        "project": f"{machine.project}, line 2",
        "environment": "variable LLMSPELL_STORAGE__POSTGRES__POOL_SIZE",
        "argument": "argument",
    }[SOURCES[strongest]]

    loaded = machine.load(**overrides)

    assert loaded.value(key) == (100 + strongest if strongest else 20)
    assert loaded.origin(key) == origin


def test_sources_are_merged_key_by_key(machine: Machine) -> None:
    machine.user.write_text("[storage.postgres]\npool_size = 7\npool_timeout_secs = 3\n")
    machine.project.write_text("[storage.postgres]\npool_size = 8\n")

    loaded = machine.load()

    assert (loaded.storage.postgres.pool_size, loaded.storage.postgres.pool_timeout_secs) == (8, 3.0)


def test_an_explicit_file_is_the_only_one_read(machine: Machine) -> None:
    machine.user.write_text("[context]\nmax_tokens = 1\n")
    other = machine.root / "other.toml"
    other.write_text('tenant_id = "acme"\n')

    loaded = load_settings(other, environ=machine.environ, start=machine.start)

    assert (loaded.tenant_id, loaded.context.max_tokens) == ("acme", 2000)


def test_llmspell_config_names_the_only_file(machine: Machine) -> None:
    machine.environ["LLMSPELL_CONFIG"] = str(machine.root / "missing.toml")

    with pytest.raises(ConfigError, match=r"missing\.toml"):
        machine.load()


def test_the_nearest_project_file_upwards_is_found(machine: Machine) -> None:
    machine.project.write_text("")

    assert config_files(machine.environ, start=machine.start) == [machine.project]


def test_every_default_passes_its_own_check(machine: Machine) -> None:
    defaults = {key: setting.default for key, setting in schema().items() if setting.default is not None}

    loaded = load_settings(overrides=defaults, environ=machine.environ, start=machine.start)

    assert {key: loaded.value(key) for key in defaults} == defaults


def test_settings_cannot_be_changed(machine: Machine) -> None:
    with pytest.raises(AttributeError):
        machine.load().storage.postgres.pool_size = 3  # type: ignore[misc]


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "hint"),
    [
        ("[storage]\n\nurll = 'memory://'\n", 3, "`storage.url`"),
        ("[storage.postgres]\npool_sise = 4\n", 2, "`storage.postgres.pool_size`"),
        ("[storage]\npool_size = 4\n", 2, "`storage.postgres.pool_size`"),
        ("[storrage]\nurl = 'memory://'\n", 1, "`storage`"),
        ("storage.urll = 'memory://'\n", 1, "`storage.url`"),
        ("tennant_id = 'x'\n", 1, "`tenant_id`"),
        ("[storage]\nsqlite = { synchronos = 'FULL' }\n", 2, "`storage.sqlite.synchronous`"),
    ],
)
def test_an_unknown_key_names_file_line_and_the_likely_key(machine: Machine, text: str, line: int, hint: str) -> None:
    machine.project.write_text(text)

    with pytest.raises(UnknownSetting) as caught:
        machine.load()

    assert f"{machine.project}, line {line}" in caught.value.detail
    assert hint in caught.value.hint


def test_an_unknown_variable_is_refused_with_the_likely_variable(machine: Machine) -> None:
    machine.environ["LLMSPELL_STORAGE__POSTGRES__POOLSIZE"] = "4"

    with pytest.raises(UnknownSetting) as caught:
        machine.load()

    assert "LLMSPELL_STORAGE__POSTGRES__POOL_SIZE" in caught.value.hint


def test_a_variable_without_levels_that_is_no_setting_belongs_to_somebody_else(machine: Machine) -> None:
    machine.environ.update({"LLMSPELL_PORT": "tcp://10.0.0.1:80", "LLMSPELL_TEST_ADMIN_URL": "x"})

    assert machine.load().tenant_id == "default"


def test_an_unknown_override_is_refused(machine: Machine) -> None:
    with pytest.raises(UnknownSetting):
        machine.load(storage__urll="memory://")


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("[storage.postgres]\npool_size = 0", "a whole number from 1 to 1,000"),
        ("[storage.postgres]\npool_size = true", "a whole number from 1 to 1,000"),
        ("[storage.postgres]\npool_size = '20'", "a whole number from 1 to 1,000"),
        ("[storage.postgres]\npool_size = 2.5", "a whole number from 1 to 1,000"),
        ("[storage.postgres]\npool_timeout_secs = nan", "a number above 0 and up to 3,600"),
        ("[storage.postgres]\npool_timeout_secs = inf", "a number above 0 and up to 3,600"),
        ("[storage.sqlite]\nsynchronous = 'OFF'", "one of FULL, NORMAL"),
        ("[storage.sqlite]\nsynchronous = 1", "one of FULL, NORMAL"),
        ("[storage.postgres]\nauto_migrate = 'yes'", "true or false"),
        ("[embedding]\ndimensions = 512", "one of 384, 768, 1536, 3072"),
        ("[embedding]\nmodel = ['a']", "text"),
        ("tenant_id = ''", "text of 1 to 128 characters"),
        ("[embedding]\nbase_url = 2026-01-01", "text"),
    ],
)
def test_a_value_that_does_not_fit_names_key_limit_and_origin(machine: Machine, text: str, limit: str) -> None:
    machine.project.write_text(text)

    with pytest.raises(InvalidSetting) as caught:
        machine.load()

    assert f"must be {limit}" in caught.value.detail
    assert f"{machine.project}, line {text.count(chr(10)) + 1}" in caught.value.hint


def test_a_table_given_as_a_value_is_refused(machine: Machine) -> None:
    machine.project.write_text("storage = 'memory'")

    with pytest.raises(InvalidSetting, match="must be a table"):
        machine.load()


def test_broken_toml_names_file_and_line(machine: Machine) -> None:
    machine.project.write_text("tenant_id = 'a'\n[storage\n")

    with pytest.raises(ConfigError, match=r"llmspell\.toml is not TOML: .*line 2"):
        machine.load()


def test_a_file_that_is_not_utf_8_is_refused(machine: Machine) -> None:
    machine.project.write_bytes(b"tenant_id = '\xff'")

    with pytest.raises(ConfigError, match="not UTF-8"):
        machine.load()


def test_a_huge_file_is_refused(machine: Machine) -> None:
    machine.project.write_bytes(b"#" * (settings_module.FILE_MAX_BYTES + 1))

    with pytest.raises(ConfigError, match="larger than"):
        machine.load()


# --- variables --------------------------------------------------------------------------------------------------------


def test_variables_are_converted_to_the_type_of_the_setting(machine: Machine) -> None:
    machine.environ.update(
        {
            "LLMSPELL_STORAGE__POSTGRES__POOL_SIZE": "5",
            "LLMSPELL_STORAGE__POSTGRES__AUTO_MIGRATE": "true",
            "LLMSPELL_STORAGE__POSTGRES__POOL_TIMEOUT_SECS": "2.5",
            "LLMSPELL_EMBEDDING__DIMENSIONS": "768",
            "LLMSPELL_TENANT_ID": "42",
        }
    )

    loaded = machine.load()

    postgres = loaded.storage.postgres
    assert (postgres.pool_size, postgres.auto_migrate, postgres.pool_timeout_secs) == (5, True, 2.5)
    assert (loaded.embedding.dimensions, loaded.tenant_id) == (768, "42")


def test_an_empty_variable_counts_as_not_set(machine: Machine) -> None:
    machine.environ.update({"LLMSPELL_STORAGE__URL": "", "DATABASE_URL": "", "LLMSPELL_CONFIG": ""})

    assert machine.load().origin("storage.url") == "default"


def test_a_reference_takes_the_value_of_a_variable(machine: Machine) -> None:
    machine.environ.update({"NAME": "acme", "POOL": "9"})
    machine.project.write_text(
        "tenant_id = 'a-${NAME}-$${NAME}-${MISSING:-x}'\n[storage.postgres]\npool_size = '${POOL}'\n"
    )

    loaded = machine.load()

    assert loaded.tenant_id == "a-acme-${NAME}-x"
    assert loaded.storage.postgres.pool_size == 9


def test_a_reference_to_a_missing_variable_is_refused(machine: Machine) -> None:
    machine.project.write_text("tenant_id = '${NOWHERE}'\n")

    with pytest.raises(InvalidSetting, match=r"`tenant_id` refers to the variable NOWHERE.*line 1"):
        machine.load()


def test_log_level_has_a_variable_of_its_own_in_any_case(machine: Machine) -> None:
    machine.environ["LLMSPELL_LOG"] = "DEBUG"

    assert machine.load().monitoring.logs_level == "debug"


# --- the store --------------------------------------------------------------------------------------------------------

SERVER = f"postgresql://app:{HIDDEN}@db/prod"


ENV_URL = {"LLMSPELL_STORAGE__URL": "memory://"}
ENV_BACKEND = {"LLMSPELL_STORAGE__BACKEND": "memory"}
SERVER_IN_FILE = "[storage]\nstate_backend='postgresql'\n[storage.postgresql]\nurl='postgres://h/d'"
STORES: list[tuple[str, dict[str, str], str | None, str, str]] = [
    ("", {}, None, "sqlite", "default"),
    ("", {"DATABASE_URL": SERVER}, SERVER, "postgresql", "variable DATABASE_URL"),
    ("", {"DATABASE_URL": "mysql://x/y"}, None, "sqlite", "default"),
    ("[storage]\nurl='memory://'", {"DATABASE_URL": SERVER}, "memory://", "memory", "FILE, line 2"),
    ("[storage]\nbackend='memory'", {"DATABASE_URL": SERVER}, "memory://", "memory", "follows storage.backend"),
    ("[storage]\nbackend='sqlite'", {"DATABASE_URL": SERVER}, None, "sqlite", "follows storage.backend"),
    ("[storage]\nbackend='postgres'", {"DATABASE_URL": SERVER}, SERVER, "postgresql", "variable DATABASE_URL"),
    (SERVER_IN_FILE, {}, "postgres://h/d", "postgresql", "FILE, line 4"),
    ("[storage]\nstate_url='sqlite:///a.db'", {}, "sqlite:///FOLDER/a.db", "sqlite", "FILE, line 2"),
    ("[storage]\nurl='sqlite:////a.db'", {}, "sqlite:////a.db", "sqlite", "FILE, line 2"),
    ("[storage]\nurl='sqlite:///:memory:'", {}, "sqlite:///:memory:", "sqlite", "FILE, line 2"),
    ("[storage]\nurl='sqlite:///a.db'", ENV_BACKEND, "memory://", "memory", "follows storage.backend"),
    ("[storage]\nbackend='sqlite'", ENV_URL, "memory://", "memory", "variable LLMSPELL_STORAGE__URL"),
]


@pytest.mark.parametrize(("file", "environ", "url", "backend", "origin"), STORES)
def test_the_store_is_chosen_by_the_strongest_source(
    machine: Machine, file: str, environ: dict[str, str], url: str | None, backend: str, origin: str
) -> None:
    machine.project.write_text(file)
    machine.environ.update(environ)

    loaded = machine.load()

    expected = url or default_store_url(machine.environ)
    assert loaded.storage.url == expected.replace("FOLDER", str(machine.project.parent))
    assert loaded.storage.backend == backend
    assert loaded.origin("storage.url") == origin.replace("FILE", str(machine.project))


def test_a_relative_store_in_a_variable_is_left_alone(machine: Machine) -> None:
    machine.environ["LLMSPELL_STORAGE__URL"] = "sqlite:///a.db"

    assert machine.load().storage.url == "sqlite:///a.db"


def test_a_url_and_a_backend_of_one_source_must_agree(machine: Machine) -> None:
    machine.project.write_text("[storage]\nurl = 'sqlite:///a.db'\nbackend = 'memory'\n")

    with pytest.raises(InvalidSetting, match=r"line 3.*line 2"):
        machine.load()


def test_a_server_that_is_wanted_but_not_named_is_refused(machine: Machine) -> None:
    machine.project.write_text("[storage]\nbackend = 'postgres'\n")

    with pytest.raises(InvalidSetting, match="no server is named"):
        machine.load()


def test_something_that_is_no_store_url_is_refused(machine: Machine) -> None:
    with pytest.raises(InvalidUrl, match=r"agent\.db"):
        machine.load(storage__url="agent.db")


def test_both_names_of_one_key_in_one_file_are_refused(machine: Machine) -> None:
    machine.project.write_text("[storage]\nurl = 'memory://'\nstate_url = 'memory://'\n")

    with pytest.raises(InvalidSetting, match="given twice"):
        machine.load()


def test_the_default_store_is_a_file_in_the_data_directory(machine: Machine) -> None:
    machine.environ["XDG_DATA_HOME"] = "/data of me"

    assert machine.load().storage.url == "sqlite:////data%20of%20me/llmspell/llmspell.db"


# --- secrets ----------------------------------------------------------------------------------------------------------


def test_a_secret_is_not_shown() -> None:
    secret = Secret(HIDDEN)

    assert [repr(secret), str(secret), f"{secret}", secret.reveal()] == ["••••", "••••", "••••", HIDDEN]


def test_no_repr_of_settings_shows_a_secret(machine: Machine) -> None:
    machine.environ.update({"DATABASE_URL": SERVER, "DATABASE_ADMIN_URL": SERVER, "OPENAI_API_KEY": HIDDEN})
    loaded = machine.load(storage__cache_url=f"redis://:{HIDDEN}@cache")

    assert HIDDEN not in repr(loaded)
    assert HIDDEN not in str(loaded.origins)
    assert loaded.embedding.api_key == Secret(HIDDEN)


@pytest.mark.parametrize("key", ["embedding.api_key", "storage.postgres.url", "storage.postgres.admin_url"])
def test_an_error_about_a_secret_does_not_show_it(machine: Machine, key: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        load_settings(overrides={key: [HIDDEN]}, environ=machine.environ, start=machine.start)

    assert HIDDEN not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"postgresql://u:{HIDDEN}@h:5432/d", "postgresql://u:••••@h:5432/d"),
        (f"postgresql://u:a@{HIDDEN}/b@h/d", "postgresql://u:••••@h/d"),
        (f"postgresql://u@h/d?sslmode=require&password={HIDDEN}", "postgresql://u@h/d?sslmode=require&password=••••"),
        (f"redis://:{HIDDEN}@h", "redis://:••••@h"),
        ("postgresql://h:5432/d", "postgresql://h:5432/d"),
        ("sqlite:////home/u/a.db", "sqlite:////home/u/a.db"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert masked(url) == shown


@pytest.mark.parametrize("variable", ["LLMSPELL_EMBEDDING__API_KEY_FILE", "OPENAI_API_KEY_FILE"])
def test_a_secret_can_come_from_a_file(machine: Machine, variable: str) -> None:
    file = machine.root / "key"
    file.write_text(f"{HIDDEN}\n")
    machine.environ[variable] = str(file)

    loaded = machine.load()

    assert loaded.embedding.api_key == Secret(HIDDEN)
    assert loaded.origin("embedding.api_key") == f"file {file} (variable {variable})"


def test_a_configuration_file_names_a_secret_file_relative_to_itself(machine: Machine) -> None:
    (machine.project.parent / "key").write_text(HIDDEN)
    machine.project.write_text("[embedding]\napi_key_file = 'key'\n")

    assert machine.load().embedding.api_key == Secret(HIDDEN)


def test_a_secret_and_its_file_in_one_source_are_refused(machine: Machine) -> None:
    machine.environ.update({"DATABASE_URL": SERVER, "DATABASE_URL_FILE": "/x"})

    with pytest.raises(InvalidSetting, match="both given"):
        machine.load()


def test_a_missing_secret_file_is_named(machine: Machine) -> None:
    machine.environ["DATABASE_URL_FILE"] = "/nowhere/at/all"

    with pytest.raises(ConfigError, match="/nowhere/at/all"):
        machine.load()


def test_only_secrets_can_come_from_files(machine: Machine) -> None:
    machine.environ["LLMSPELL_TEXT__LANGUAGE_FILE"] = "/x"

    with pytest.raises(UnknownSetting):
        machine.load()


@pytest.mark.parametrize(
    ("base_url", "kept"),
    [
        ("https://api.openai.com/v1", True),
        ("https://api.openai.com", True),
        ("https://api.openai.com.evil.example/v1", False),
        ("https://api.openai.com:x@evil.example/v1", False),
        ("http://api.openai.com/v1", False),
        ("http://localhost:11434/v1", False),
    ],
)
def test_the_key_for_one_host_is_not_given_to_another(machine: Machine, base_url: str, kept: bool) -> None:
    machine.environ["OPENAI_API_KEY"] = HIDDEN
    machine.project.write_text(f"[embedding]\nbase_url = '{base_url}'\n")

    assert machine.load().embedding.api_key == (Secret(HIDDEN) if kept else None)


def test_an_explicit_key_is_used_for_any_host(machine: Machine) -> None:
    machine.environ.update({"OPENAI_API_KEY": "other", "LLMSPELL_EMBEDDING__API_KEY": HIDDEN})
    machine.project.write_text("[embedding]\nbase_url = 'http://localhost:1/v1'\n")

    assert machine.load().embedding.api_key == Secret(HIDDEN)


# --- the rest ---------------------------------------------------------------------------------------------------------


def test_relative_xdg_directories_are_ignored() -> None:
    assert directories({"HOME": "/h", "XDG_CACHE_HOME": "rel"}).cache == Path("/h/.cache/llmspell")


def test_directories_follow_xdg() -> None:
    variables = ["XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR"]

    found = directories({name: f"/{name}" for name in variables})

    assert [str(getattr(found, name)) for name in found.__struct_fields__] == [
        f"/{name}/llmspell" for name in variables
    ]


def test_no_color_beats_force_color() -> None:
    assert colour_preference({"NO_COLOR": "1", "FORCE_COLOR": "1"}) is False
    assert colour_preference({"FORCE_COLOR": "1"}) is True
    assert colour_preference({}) is None


EVERY_KEY = """
        tenant_id = "acme"
        [storage]
        vector_backend = "hnsw"
        vector_path = "/var/lib/llmspell/vectors"
        state_backend = "postgresql"
        state_url = "${DATABASE_URL}"
        cache_backend = "redis"
        cache_url = "${REDIS_URL}"
        [storage.postgres]
        url = "${DATABASE_URL}"
        pool_size = 20
        pool_timeout_secs = 30
        idle_timeout_secs = 600
        max_lifetime_secs = 1800
        enforce_tenant_isolation = true
        auto_migrate = true
        [multi_tenant]
        enabled = true
        isolation_level = "strict"
        default_quota_documents = 10000
        default_quota_storage_mb = 1024
        default_quota_api_calls = 10000
        [monitoring]
        metrics_enabled = true
        metrics_port = 9090
        traces_enabled = true
        traces_endpoint = "http://localhost:4317"
        logs_level = "info"
        logs_format = "json"
        [performance]
        event_buffer_size = 10000
        state_backend = "sqlite"
        migration_batch_size = 1000
        [security]
        default_level = "restricted"
        audit_enabled = true
        sandbox_enabled = true
        path_validation = true
        [rag]
        enabled = true
        embedding_provider = "openai"
        embedding_model = "text-embedding-ada-002"
        embedding_cache_size = 10000
        chunk_size = 512
        chunk_overlap = 64
        max_search_results = 10
        similarity_threshold = 0.7
        [rag.vector_storage.hnsw]
        m = 16
        ef_construction = 200
        ef_search = 50
        max_elements = 1000000
        [memory]
        backend = "hnsw"
        max_entries = 10000
        ttl_seconds = 3600
        [memory.hnsw]
        m = 16
        ef_construction = 200
        ef_search = 50
        [templates]
        enable_caching = true
        max_templates = 100
        [server]
        host = "0.0.0.0"
        port = 8080
        workers = 16
        max_connections = 10000
        keep_alive = 75
        request_timeout = 30
        """


def test_every_key_that_a_requirement_names_is_accepted(machine: Machine) -> None:
    machine.project.write_text(EVERY_KEY)
    machine.environ.update({"DATABASE_URL": SERVER, "REDIS_URL": "redis://h"})

    loaded = machine.load()

    assert (loaded.storage.url, loaded.storage.backend, loaded.tenant_id) == (SERVER, "postgresql", "acme")
    assert schema()["storage.cache_url"].later
    assert not schema()["storage.postgres.pool_size"].later


def test_every_setting_says_what_it_does() -> None:
    assert [key for key, setting in schema().items() if not setting.description.endswith(".")] == []


def test_settings_survive_pickling_without_their_secrets_being_readable_in_a_repr(machine: Machine) -> None:
    machine.environ["OPENAI_API_KEY"] = HIDDEN

    copied = pickle.loads(pickle.dumps(machine.load()))

    assert copied.embedding.api_key == Secret(HIDDEN)
    assert HIDDEN not in repr(copied)
