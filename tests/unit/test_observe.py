from __future__ import annotations

import io
import json
import logging
import re
import sys
import time
from collections.abc import Iterator

import pytest

from llmspell.errors import InvalidSetting
from llmspell.observe import (
    CHECKPOINTS_MAX,
    TimingGuard,
    configure_logging,
    counting_queries,
    logger,
    notify_query,
    notify_round_trip,
    observed,
    redact,
)


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    configure_logging("debug", stream=stream)
    yield stream
    configure_logging("off")
    logger.setLevel(logging.NOTSET)


# --- queries ----------------------------------------------------------------------------------------------------------


def test_queries_and_round_trips_are_counted_by_name() -> None:
    with counting_queries() as counts:
        notify_query("kv.get", 0.5, 1)
        notify_query("kv.get", 0.25, 0)
        notify_round_trip("kv.get")

    assert dict(counts.queries) == {"kv.get": 2}
    assert dict(counts.round_trips) == {"kv.get": 1}
    assert (counts.rows, counts.seconds) == (1, 0.75)


def test_nothing_is_counted_after_the_block() -> None:
    with counting_queries() as counts:
        pass
    notify_query("kv.get", 0.1, 1)

    assert not counts.queries
    assert not observed()


def test_counters_may_overlap() -> None:
    with counting_queries() as outer:
        with counting_queries() as inner:
            notify_query("a", 0, 0)
        notify_query("b", 0, 0)

    assert (set(outer.queries), set(inner.queries)) == ({"a", "b"}, {"a"})


def test_a_counter_is_detached_when_its_block_raises() -> None:
    with pytest.raises(KeyError), counting_queries():
        raise KeyError

    assert not observed()


# --- timings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "level"), [(0.099, None), (0.1, "debug"), (0.999, "debug"), (1.0, "warning"), (5.0, "warning")]
)
def test_a_slow_block_is_logged_by_its_threshold(
    log: io.StringIO, monkeypatch: pytest.MonkeyPatch, seconds: float, level: str | None
) -> None:
    instants = iter([0.0, 0.0, seconds])
    monkeypatch.setattr(time, "perf_counter", lambda: next(instants))

    with TimingGuard("search"):
        pass

    line = log.getvalue()
    assert (level is None and line == "") or f" {level}" in line


def test_checkpoints_are_in_the_log_line(log: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    instants = iter([0.0, 0.0, 0.5, 2.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(instants))

    with TimingGuard("search") as timing:
        timing.checkpoint("embedded")

    assert "search took 2000 ms" in log.getvalue()
    assert "at_embedded_ms=500.0" in log.getvalue()
    assert timing.checkpoints_ms == {"embedded": 500.0}
    assert timing.elapsed_ms == 2000.0


def test_checkpoints_are_bounded() -> None:
    with TimingGuard("loop") as timing:
        for number in range(CHECKPOINTS_MAX + 5):
            timing.checkpoint(str(number))

    assert len(timing.checkpoints_ms) == CHECKPOINTS_MAX


def test_a_block_that_raises_is_timed_and_marked(log: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    instants = iter([0.0, 0.0, 2.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(instants))

    with pytest.raises(KeyError), TimingGuard("search"):
        raise KeyError

    assert "failed=True" in log.getvalue()


# --- redaction --------------------------------------------------------------------------------------------------------

LONG = "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7bC0dF3gH6jK9mN2pQ5sT8"


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        (f"key sk-{LONG} used", "key sk-*** used"),
        (f"sk-proj-{LONG}_-x", "sk-***"),
        (f"Authorization: Bearer {LONG}", "Authorization: Bearer ***"),
        ("authorization: basic dXNlcjpwYXNz", "authorization: basic ***"),
        ("password=hunter2 user=ada", "password=*** user=ada"),
        ('password="two words" user=ada', 'password="***" user=ada'),
        ('{"password": "hunter2", "user": "ada"}', '{"password": "***", "user": "ada"}'),
        ("PGPASSWORD=hunter2", "PGPASSWORD=***"),
        ("api_key: abc, next", "api_key: ***, next"),
        ("client_secret='x y'", "client_secret='***'"),
        ("postgresql://app:hunter2@db:5432/prod", "postgresql://app:***@db:5432/prod"),
        ("redis://:hunter2@cache", "redis://:***@cache"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc-_123", "***"),
        ("ghp_aB3dE6gH9jK2mN5pQ8sT1vW4yZ7bC0dF3gH6", "ghp_***"),
        ("AKIAIOSFODNN7EXAMPLE", "AKIA***"),
        ("lsk_live_abc123_secretsecretsecret", "lsk_live_abc123_***"),
        (
            "lsk_mfrw2zi_aganawuaajqrzrxzacacacacacacacac_" + "a2" * 29,
            "lsk_mfrw2zi_aganawuaajqrzrxzacacacacacacacac_***",
        ),
        ("lsmk_" + "aB3-" * 12, "lsmk_***"),
        ("-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----", "***"),
    ],
)
def test_secrets_are_redacted(text: str, safe: str) -> None:
    assert redact(text) == safe


@pytest.mark.parametrize(
    "text",
    [
        "the task-force asked about risk-management and sk-learn",
        "2,000 tokens used of 4,000",
        "postgresql://db:5432/prod",
        "session s1 from 10.0.0.1 by ada@example.org",
        "Bearer of news",
        "{'max_tokens': 2000}",
    ],
)
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert redact(text) == text


def test_personal_data_is_redacted_on_request() -> None:
    assert redact("session_id=abc 10.0.0.1 ada@example.org", personal=True) == "session_id=*** *** ***"
    assert redact("078-05-1120 4111 1111 1111 1111 3782-822463-10005", personal=True) == "*** *** ***"
    assert (
        redact("4111111111111111 on 2026-05-01, 1,000 of 2,000", personal=True) == "*** on 2026-05-01, 1,000 of 2,000"
    )


def test_a_password_does_not_swallow_what_follows_it() -> None:
    assert redact('password=x" then much more "text"') == 'password=***" then much more "text"'


def test_hostile_text_is_redacted_in_linear_time() -> None:
    repeated = "password=" * 20_000 + "-----BEGIN PRIVATE KEY-----" * 500 + "a://" * 20_000 + "eyJ" * 20_000

    assert "password=***" in redact(repeated)


# --- logs -------------------------------------------------------------------------------------------------------------


def test_a_log_line_is_redacted(log: io.StringIO) -> None:
    logger.warning("connecting to %s", "postgresql://app:hunter2@db/prod", extra={"fields": {"password": "hunter2"}})

    assert "hunter2" not in log.getvalue()
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z warning llmspell connecting to .* password=\*\*\*\n", log.getvalue()
    )


def test_a_json_log_line_is_one_document_even_when_redacted() -> None:
    stream = io.StringIO()
    configure_logging("info", as_json=True, stream=stream)

    logger.info('password="two words"\n"%s"', "x", extra={"fields": {"password": "hunter2", "rows": 3}})
    configure_logging("off")

    document = json.loads(stream.getvalue())
    assert (document["message"], document["level"], document["rows"]) == ('password="***"\n"x"', "info", 3)
    assert document["password"] == "***"


def test_a_traceback_is_redacted(log: io.StringIO) -> None:
    try:
        raise ValueError("password=hunter2")
    except ValueError:
        logger.exception("it failed")

    assert "ValueError" in log.getvalue()
    assert "hunter2" not in log.getvalue()


def test_configuring_twice_writes_each_line_once(log: io.StringIO) -> None:
    configure_logging("info", stream=log)

    logger.info("once")

    assert log.getvalue().count("once") == 1


def test_log_lines_follow_stderr_when_it_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    configure_logging("info")
    replacement = io.StringIO()
    monkeypatch.setattr(sys, "stderr", replacement)

    logger.info("here")
    configure_logging("off")

    assert "here" in replacement.getvalue()


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(InvalidSetting, match="debug, info, warning, error, off"):
        configure_logging("loud")
