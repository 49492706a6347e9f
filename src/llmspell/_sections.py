"""Sections of the settings that know nothing of a backend, and what every section is made of.

Private to `llmspell.settings`, which has the rest, reads the files and gives all of it a public name.
Each field carries its own documentation: the generated reference, `config explain` and the checks read it from here.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeAlias, get_args, get_origin

import msgspec

MASK: Final = "••••"


class Secret:
    """A text that is never shown: `repr`, `str` and every report give `••••`. `reveal()` is the one way to it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the secret itself."""
        return self._text

    def __repr__(self) -> str:
        return MASK

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


def masked(value: Any) -> Any:
    """Return a value as it may be shown: secrets as `••••`, URLs without their password."""
    if isinstance(value, Secret):
        return MASK
    if isinstance(value, str) and "://" in value:
        # Greedy up to the last "@": a password that someone forgot to escape must not peek out behind it.
        place, mark, query = value.partition("?")
        place = re.sub(r"(://[^:/@]*):.*@", rf"\1:{MASK}@", place)
        return (
            place
            + mark
            + re.sub(r"((?:^|&)\w*(?:password|token|key|secret)\w*=)[^&]*", rf"\1{MASK}", query, flags=re.IGNORECASE)
        )
    return value


def about(text: str, *, row: str = "", url: bool = False, later: bool = False, **limits: Any) -> msgspec.Meta:
    """Describe a setting: what it does, the requirement row of its default, whether a URL may hold a password."""
    return msgspec.Meta(description=text, extra={"row": row, "url": url, "later": later}, **limits)


def later(text: str, *, row: str = "", **limits: Any) -> msgspec.Meta:
    """Describe a setting that is accepted and checked, and on which nothing acts yet."""
    return about(text, row=row, later=True, **limits)


class Setting(NamedTuple):
    """One key of the configuration, for `config explain`, the generated page and the checks."""

    key: str
    kind: Any
    default: Any
    description: str
    limit: str
    row: str
    secret: bool
    """Never shown, and may come from a file (`…_FILE`); for a URL only the password is masked."""
    later: bool
    """Accepted and checked; nothing acts on it yet."""


def limit_in_words(base: Any, meta: msgspec.Meta) -> str:
    """Say in words what a setting accepts."""
    options = [option for option in get_args(base) if option is not type(None)]
    if options and get_origin(base) is not Literal:
        base = options[0]
        if words := [word for option in options[1:] if get_origin(option) is Literal for word in get_args(option)]:
            return " or ".join([limit_in_words(base | None, meta), *words])  # a value of the first kind, or a word
    if get_origin(base) is Annotated:  # what may be unset has its limits inside
        base, meta = get_args(base)
    if get_origin(base) is Literal:
        return "one of " + ", ".join(map(str, get_args(base)))
    name = {bool: "true or false", int: "a whole number", float: "a number"}.get(base, "text")
    if meta.max_length is not None:
        return f"{name} of {meta.min_length} to {meta.max_length} characters"
    if meta.ge is not None and meta.le is not None:
        return f"{name} from {meta.ge:,} to {meta.le:,}"
    if meta.gt is not None:
        return f"{name} above {meta.gt:,}" + (f" and up to {meta.le:,}" if meta.le is not None else "")
    return name + (f" of at least {meta.ge:,}" if meta.ge is not None else "")


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """A table of the configuration. Its `repr` masks secrets."""

    def __repr__(self) -> str:
        shown_values = (f"{name}={masked(getattr(self, name))!r}" for name in self.__struct_fields__)
        return f"{type(self).__name__}({', '.join(shown_values)})"


class TenancySettings(Section, frozen=True, kw_only=True):
    """How tenants come to be."""

    auto_create_tenants: Annotated[
        bool | None, about("Create a tenant on its first write. Unset: yes on embedded stores, no on a server.")
    ] = None


def _granted(what: str) -> str:
    return f"Granted to a new tenant: {what}. Unset: no limit."


Granted: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]
"""How much is granted; without it there is no limit."""


class MultiTenantSettings(Section, frozen=True, kw_only=True):
    """Quotas given to new tenants (TEN-12)."""

    enabled: Annotated[bool, later("Serve several tenants.", row="TEN-12")] = True
    isolation_level: Annotated[Literal["strict"], about("How a new tenant is kept apart.", row="TEN-12")] = "strict"
    default_quota_documents: Annotated[Granted | None, about(_granted("memories"), row="TEN-12")] = None
    default_quota_storage_mb: Annotated[Granted | None, about(_granted("stored MiB"), row="TEN-12")] = None
    default_quota_api_calls: Annotated[
        Granted | None,
        about(
            "Granted to a new tenant: calls per day. Unset: no limit. Recorded; refusing is the server's work, not done yet.",
            row="TEN-12",
        ),
    ] = None
    default_quota_vectors: Annotated[Granted | None, about(_granted("vectors"), row="AMB-043")] = None
    default_quota_embeddings_per_day: Annotated[
        Granted | None, about(_granted("embeddings per UTC day"), row="AMB-043")
    ] = None


class EmbeddingCacheSettings(Section, frozen=True, kw_only=True):
    """Embeddings that need not be computed twice (RAG-11)."""

    enabled: Annotated[bool, about("Keep computed embeddings.")] = True
    max_entries: Annotated[int, about("Entries kept; the least recently used go first.", row="RAG-11", ge=1)] = 100_000
    ttl_seconds: Annotated[int, about("Forget an entry after this.", row="RAG-11", ge=1)] = 3_600
    compression_threshold: Annotated[int, about("Compress entries from this many bytes on.", row="RAG-11", ge=0)] = (
        1_024
    )
    persistence_path: Annotated[
        str | None,
        about("Directory that keeps the cache across restarts. Unset: below the user's cache directory.", row="RAG-11"),
    ] = None
    per_tenant: Annotated[bool, about("Never share entries between tenants.", row="AMB-084")] = True


class EmbeddingSettings(Section, frozen=True, kw_only=True):
    """Which model turns texts into vectors."""

    provider: Annotated[
        Literal["local", "openai", "hashing"],
        about("`local` runs a model on this machine, `openai` asks any compatible endpoint, `hashing` is for tests."),
    ] = "local"
    model: Annotated[
        str | None, about("Name of the model, or a directory with one. Unset: the provider's default.")
    ] = None
    base_url: Annotated[str | None, about("Endpoint of the provider.", url=True)] = None
    api_key: Annotated[Secret | None, about("Key of the provider. `OPENAI_API_KEY` is used for api.openai.com.")] = None
    dimensions: Annotated[
        Literal[384, 768, 1536, 3072] | None, about("Size of a vector. Unset: the model's own.", row="VEC-01")
    ] = None
    timeout_secs: Annotated[float, about("Give up on a request after this, retries included.", gt=0, le=3_600)] = 60.0
    batch_size: Annotated[int, about("Texts per request or model run.", ge=1, le=2_048)] = 64
    cache: EmbeddingCacheSettings = EmbeddingCacheSettings()


class TextSettings(Section, frozen=True, kw_only=True):
    """How texts become search terms."""

    language: Annotated[
        str, about("Language whose stemming rules are used; `none` keeps words as they are.", min_length=1)
    ] = "english"


class ContextSettings(Section, frozen=True, kw_only=True):
    """How a context is assembled."""

    max_tokens: Annotated[int, about("Token budget when the call gives none.", ge=1, le=10_000_000)] = 2_000


class TransactionSettings(Section, frozen=True, kw_only=True):
    """Units of work."""

    timeout_s: Annotated[float, about("Roll a transaction back after this.", gt=0, le=3_600)] = 30.0
    attempts: Annotated[
        int,
        about(
            "Tries of `run`, `once` and `state.update` while another transaction was first; none begins later than 30 s after the "
            "first one failed, so that a call ends within twice `timeout_s` and 30 s.",
            ge=1,
            le=1_000,
        ),
    ] = 100
    idempotency_ttl_s: Annotated[
        float, about("Remember the result under an idempotency key for so long.", gt=0, le=31_536_000)
    ] = 86_400.0


class StateSettings(Section, frozen=True, kw_only=True):
    """Scoped state (STA-03, STA-06). It is neither cached nor buffered: decision 0005 says why."""

    encrypt: Annotated[
        bool, about("Seal every value that is set under the first of `security.master_keys`.", row="STA-06")
    ] = False
    cache_size: Annotated[int, later("Values kept in process.", row="STA-03", ge=0)] = 10_000
    write_batch_size: Annotated[int, later("Writes put together.", row="STA-03", ge=1)] = 100
    flush_interval_ms: Annotated[int, later("Longest wait of a write for others.", row="STA-03", ge=0)] = 100


class RetentionSettings(Section, frozen=True, kw_only=True):
    """How long things are kept (AMB-114)."""

    events_days: Annotated[
        int, about("Archive months of events that ended so long ago.", row="EVT-14", ge=1, le=36_500)
    ] = 90


class JobsSettings(Section, frozen=True, kw_only=True):
    """The worker (`llmspell jobs run`, `spell.worker()`) and what it does by itself. An interval of 0 turns that off."""

    concurrency: Annotated[int, about("Jobs that one worker runs at once.", ge=1, le=100)] = 4
    lease_s: Annotated[float, about("A job whose worker is silent for so long is taken over.", ge=1, le=86_400)] = 60.0
    poll_s: Annotated[float, about("How often a worker without work looks for some.", gt=0, le=3_600)] = 1.0
    time_limit_s: Annotated[float, about("End an attempt after this.", gt=0, le=86_400)] = 3_600.0
    grace_s: Annotated[float, about("When it is stopped, a worker lets jobs end for so long.", ge=0, le=3_600)] = 20.0
    expire_interval_s: Annotated[float, about("Delete what has expired this often.", ge=0, le=86_400)] = 300.0
    embed_interval_s: Annotated[
        float, about("Look this often for memories without embedding that no job waits for.", ge=0, le=86_400)
    ] = 600.0
    promote_interval_s: Annotated[
        float, about("Look this often for vectors that have outgrown exact search.", ge=0, le=86_400)
    ] = 600.0
    promote_threshold: Annotated[
        int, about("Move a space into the approximate index beyond so many vectors outside of it.", ge=1, le=10_000_000)
    ] = 10_000
    partitions_interval_s: Annotated[
        float, about("Make the partitions of the event log ahead this often.", ge=0, le=86_400)
    ] = 3_600.0
    keep_finished_s: Annotated[
        float, about("Keep jobs that succeeded or were cancelled for so long.", ge=86_400, le=315_360_000)
    ] = 604_800.0
    keep_dead_s: Annotated[float, about("Keep dead jobs for so long.", ge=86_400, le=315_360_000)] = 2_592_000.0


class BackupSettings(Section, frozen=True, kw_only=True):
    """Backups of the whole store (STA-04, STA-05)."""

    enabled: Annotated[bool, about("Have a worker take backups by itself.", row="STA-04")] = False
    interval_s: Annotated[float, about("Take one this often.", row="STA-04", ge=60, le=31_536_000)] = 3_600.0
    stale_after_s: Annotated[
        Annotated[float, msgspec.Meta(gt=0, le=315_360_000)] | None,
        about("Health turns red when the last verified backup is older. Unset: three intervals, when `enabled`."),
    ] = None
    retention_days: Annotated[
        int, about("Delete backups that are older, beyond `retention_count`.", row="STA-04", ge=1, le=36_500)
    ] = 30
    retention_count: Annotated[
        int, about("Keep so many of the latest backups, however old they are.", row="C10", ge=1, le=100_000)
    ] = 10
    retention_max: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None,
        about("Keep at most so many, however young they are. Unset: no limit."),
    ] = None
    compression: Annotated[bool, about("Compress by zstd.", row="STA-04")] = True
    compression_level: Annotated[int, about("Level of the compression.", row="C10", ge=1, le=19)] = 3
    encryption: Annotated[
        bool, about("Encrypt by AES-256-GCM under the first of `security.master_keys`.", row="STA-04")
    ] = True
    verify: Annotated[
        bool, about("Restore each new backup somewhere else and compare digests: only then it counts.")
    ] = True
    location: Annotated[Literal["folder", "s3"], about("Where backups are kept.", row="STA-05")] = "folder"
    folder: Annotated[
        str | None, about("The folder of backups. Unset: `backups` in your data directory.", row="STA-05")
    ] = None
    s3_bucket: Annotated[str, about("The bucket.", row="STA-05", min_length=3, max_length=63)] = "llmspell-backups"
    s3_prefix: Annotated[str, about("What names of objects begin with.", row="STA-05")] = "state/"
    s3_endpoint: Annotated[str | None, about("URL of another service that speaks S3. Unset: AWS.", url=True)] = None
    s3_region: Annotated[str | None, about("Region of the bucket. Unset: `AWS_REGION`.")] = None
    s3_access_key_id: Annotated[
        Secret | None, about("Credentials of the bucket. Unset: where the SDKs of AWS look for them.")
    ] = None
    s3_secret_access_key: Annotated[Secret | None, about("The secret that belongs to it.")] = None
    verify_url: Annotated[
        str | None,
        about(
            "A server, as a role that may create databases, on which backups of a server are restored to verify them."
            " Unset: an embedded one.",
            url=True,
        ),
    ] = None
    programs_dir: Annotated[
        str | None, about("Folder of pg_dump, pg_restore and psql. Unset: the PATH, then the embedded server's.")
    ] = None


class MonitoringSettings(Section, frozen=True, kw_only=True):
    """What is reported about the process (CFG-06)."""

    metrics_enabled: Annotated[bool, later("Serve metrics.", row="CFG-06")] = True
    metrics_port: Annotated[int, later("Port of the metrics.", row="CFG-06", ge=1, le=65_535)] = 9_090
    traces_enabled: Annotated[bool, later("Send traces.", row="CFG-06")] = False
    traces_endpoint: Annotated[str | None, later("Where traces go.", row="CFG-06", url=True)] = None
    logs_level: Annotated[
        Literal["debug", "info", "warning", "error", "off"],
        about("Least level of log lines; `LLMSPELL_LOG` sets it.", row="CFG-06"),
    ] = "warning"
    logs_format: Annotated[Literal["console", "json"], about("Shape of log lines on stderr.", row="CFG-06")] = "console"


class HnswSettings(Section, frozen=True, kw_only=True):
    """The approximate vector index in process (HNS-04, HNS-05): a preset, and keys that override it one by one (AMB-012)."""

    preset: Annotated[
        Literal["speed", "balanced", "accuracy", "auto"],
        about(
            "Parameters by name, as m/ef_construction/ef_search: `speed` 8/50/25, `balanced` 16/200/50, `accuracy` 48/500/300;"
            " `auto` goes by the number of vectors.",
            row="HNS-02",
        ),
    ] = "balanced"
    m: Annotated[
        Annotated[int, msgspec.Meta(ge=2, le=100)] | None,
        about("Links per node. Unset: the preset's; balanced has 16.", row="HNS-05"),
    ] = None
    ef_construction: Annotated[
        Annotated[int, msgspec.Meta(ge=4, le=1_000)] | None,
        about("Candidates while building. Unset: the preset's; balanced has 200.", row="HNS-05"),
    ] = None
    ef_search: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=1_000)] | None,
        about(
            "Candidates while searching; a search takes at least as many as it shall return. Unset: the preset's; balanced has 50.",
            row="HNS-05",
        ),
    ] = None
    max_elements: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=4_294_967_295)] | None,
        about("Vectors that one index is made for. Unset: the preset's; balanced has 1,000,000.", row="HNS-02"),
    ] = None
    recall: Annotated[
        Annotated[float, msgspec.Meta(ge=0.5, le=1)] | Literal["off"],
        about(
            "The share of the true neighbours that searches aim at: they take at least as many candidates as were measured to reach"
            " it on the data. `off` leaves `ef_search` alone.",
            row="HNS-14",
        ),
    ] = 0.99


class VectorStorageSettings(Section, frozen=True, kw_only=True):
    """Vectors that a user inserts, and those of documents."""

    hnsw: HnswSettings = HnswSettings()


class MemorySettings(Section, frozen=True, kw_only=True):
    """Working memory (MEM-03)."""

    backend: Annotated[Literal["hnsw"], later("Index of memories.", row="MEM-03")] = "hnsw"
    max_entries: Annotated[int, later("Entries kept in working memory.", row="MEM-03", ge=1)] = 10_000
    ttl_seconds: Annotated[int, later("Life of an entry in working memory.", row="MEM-03", ge=1)] = 3_600
    hnsw: HnswSettings = HnswSettings()


class RagSettings(Section, frozen=True, kw_only=True):
    """Documents (RAG-02, RAG-03)."""

    enabled: Annotated[bool, later("Ingest and search documents.", row="RAG-02")] = True
    embedding_provider: Annotated[str, later("Provider for documents.", row="RAG-02")] = "openai"
    embedding_model: Annotated[str, later("Model for documents.", row="RAG-03")] = "text-embedding-ada-002"
    embedding_cache_size: Annotated[int, later("Embeddings kept.", row="RAG-02", ge=0)] = 10_000
    chunk_size: Annotated[int, later("Tokens per chunk.", row="RAG-03", ge=1)] = 512
    chunk_overlap: Annotated[int, later("Tokens that neighbours share.", row="RAG-03", ge=0)] = 64
    max_search_results: Annotated[int, later("Results per search.", row="RAG-03", ge=1, le=1_000)] = 10
    similarity_threshold: Annotated[float, later("Least similarity.", row="RAG-03", ge=-1, le=1)] = 0.7
    vector_storage: VectorStorageSettings = VectorStorageSettings()


class SecuritySettings(Section, frozen=True, kw_only=True):
    """Guards of the runtime (SEC-04)."""

    default_level: Annotated[Literal["safe", "restricted", "privileged"], later("Level of tools.", row="SEC-04")] = (
        "restricted"
    )
    audit_enabled: Annotated[
        bool, about("Allow the optional part of the audit log. Privileged actions are always recorded.", row="SEC-04")
    ] = True
    audit_reads: Annotated[bool, about("Record reads too, in batches behind the calls.", row="AUD-04")] = False
    sandbox_enabled: Annotated[bool, later("Run scripts in the sandbox.", row="SEC-04")] = True
    path_validation: Annotated[bool, later("Check paths.", row="SEC-04")] = True
    master_keys: Annotated[
        Secret | None,
        about(
            "Keys that seal secrets before they are kept, between commas or lines; the first one seals, the others only open."
            " `LLMSPELL_MASTER_KEY` sets it."
        ),
    ] = None
    secrets_dir: Annotated[
        str | None, about("Directory of mounted secrets, one file each: `llmspell/<provider>/api_key`.", row="SCR-02")
    ] = None


class TemplatesSettings(Section, frozen=True, kw_only=True):
    """Workflow templates (TPL-02)."""

    enable_caching: Annotated[bool, later("Keep compiled templates.", row="TPL-02")] = True
    max_templates: Annotated[int, later("Templates kept.", row="TPL-02", ge=1)] = 100


class ServerSettings(Section, frozen=True, kw_only=True):
    """The HTTP server (SRV-01)."""

    host: Annotated[str, later("Address to listen on.", row="SRV-01")] = "0.0.0.0"  # noqa: S104 - SRV-01 names it
    port: Annotated[int, later("Port to listen on.", row="SRV-01", ge=1, le=65_535)] = 8_080
    workers: Annotated[int, later("Processes: CPU cores x 2.", row="SRV-01", ge=1, le=1_024)] = 16
    max_connections: Annotated[int, later("Connections at once.", row="SRV-01", ge=1)] = 10_000
    keep_alive: Annotated[float, later("Seconds an idle connection stays.", row="SRV-01", ge=0)] = 75.0
    request_timeout: Annotated[float, later("Seconds a request may take.", row="SRV-01", gt=0)] = 30.0
