from __future__ import annotations

import pytest

from llmspell.errors import AccessRefused, Unavailable
from llmspell.storage.postgres.errors import Failure, connection_failed, translate


@pytest.mark.parametrize(
    "said",
    [
        'password authentication failed for user "llmspell_app"',
        'role "llmspell_app" does not exist',
        'database "nowhere" does not exist',
        'no pg_hba.conf entry for host "10.0.0.7", user "llmspell_app", database "app", no encryption',
    ],
)
def test_a_refused_role_password_or_database_is_an_access_refused(said: str) -> None:
    error = connection_failed(Exception(f'connection to server at "db" failed: FATAL:  {said}'), target="db/app")

    assert type(error) is AccessRefused
    assert said in error.detail
    assert "password" in error.hint
    assert not error.retryable


def test_a_missing_right_is_an_access_refused_that_names_the_query() -> None:
    error = translate(Failure("42501", "permission denied for table memories"), query="memories.insert")

    assert type(error) is AccessRefused
    assert (error.fields["query"], "grants" in error.hint) == ("memories.insert", True)


def test_a_server_that_does_not_answer_is_unavailable() -> None:
    assert type(connection_failed(Exception("connection refused"), target="db/app")) is Unavailable
