"""The key that signs tenants: its text, its signatures, and when a signer makes a new one."""

from __future__ import annotations

import hashlib
import hmac
import pickle
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from llmspell.clock import ManualClock
from llmspell.errors import InvalidSetting
from llmspell.observe import redact
from llmspell.settings import Secret, load_settings
from llmspell.storage.postgres.statements import Bound
from llmspell.storage.postgres.tenant_key import (
    SIGNATURE_LIFETIME_S,
    SIGNATURE_RENEWED_S,
    SIGNATURES_MAX,
    Signer,
    TenantKey,
    new_tenant_key,
    read_tenant_key,
)

KEY = TenantKey(bytes(range(32)))


def signature(bound: Bound) -> bytes:
    found = bound.values[2]
    assert found is not None
    return found


def until(bound: Bound) -> int:
    return int(signature(bound).split(b".")[1])


def test_a_new_key_can_be_read_and_no_two_are_alike() -> None:
    texts = [new_tenant_key() for _ in range(50)]

    assert len({text.reveal() for text in texts}) == len({read_tenant_key(text).id for text in texts}) == 50


@pytest.mark.parametrize(
    "change", [lambda t: t[:-1], lambda t: t + "A", lambda t: t[:9] + ("A" if t[9] != "A" else "B") + t[10:]]
)
def test_a_key_that_was_mistyped_is_refused_without_being_shown(change: Callable[[str], str]) -> None:
    text = change(new_tenant_key().reveal())

    with pytest.raises(InvalidSetting, match=r"storage\.postgres\.tenant_key") as refused:
        read_tenant_key(Secret(text))

    assert text[5:20] not in str(refused.value)
    assert (refused.value.__cause__, refused.value.__context__) == (None, None)


@pytest.mark.parametrize(
    "text",
    ["", "lstk_", "hunter2", "lsmk_" + new_tenant_key().reveal()[5:]],
    ids=["empty", "a beginning", "a word", "a master key"],
)
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(InvalidSetting):
        read_tenant_key(Secret(text))


def test_a_signature_has_one_length_and_is_an_hmac_of_key_id_expiry_and_tenant() -> None:
    signed = KEY.sign("ü".encode(), until=12)

    head, mac = signed[:28], signed[28:]
    assert re.fullmatch(rb"[0-9a-f]{16}\.0000000012\.[0-9a-f]{64}", signed)
    assert (
        mac.decode() == hmac.new(bytes(range(32)), b"llmspell tenant v1." + head + "ü".encode(), "sha256").hexdigest()
    )


def test_the_blocks_of_the_database_make_the_same_hmac() -> None:
    inner, outer = KEY.blocks()
    signed = KEY.sign(b"acme", until=1_900_000_000)

    again = hashlib.sha256(
        outer + hashlib.sha256(inner + b"llmspell tenant v1." + signed[:28] + b"acme").digest()
    ).hexdigest()
    assert signed[28:].decode() == again


def test_nothing_shows_the_key() -> None:
    text = new_tenant_key()
    key = read_tenant_key(text)

    assert repr(key) == f"TenantKey(id={key.id})"
    assert repr(Signer(key)) == f"Signer(key={key.id})"
    assert text.reveal() not in redact(f"connecting with {text.reveal()} failed")
    assert text.reveal() not in repr(load_settings(environ={"LLMSPELL_TENANT_KEY": text.reveal()}))
    with pytest.raises(TypeError):
        pickle.dumps(key)


def test_the_variable_and_its_file_set_the_key(tmp_path: Path) -> None:
    text = new_tenant_key()
    path = tmp_path / "tenant.key"
    path.write_text(text.reveal() + "\n")

    for environ in ({"LLMSPELL_TENANT_KEY": text.reveal()}, {"LLMSPELL_TENANT_KEY_FILE": str(path)}):
        assert load_settings(environ=environ, start=path.parent).storage.postgres.tenant_key == text


def test_a_signature_is_kept_for_a_while_and_then_made_anew_long_before_it_ends() -> None:
    clock = ManualClock()
    signer = Signer(KEY, clock=clock)
    first = signer(b"acme")

    clock.advance(seconds=SIGNATURE_RENEWED_S - 1)
    assert signer(b"acme") is first
    clock.advance(seconds=1)
    second = signer(b"acme")
    assert until(second) == until(first) + SIGNATURE_RENEWED_S
    assert until(first) - int(clock.now().timestamp()) >= SIGNATURE_LIFETIME_S - SIGNATURE_RENEWED_S - 1


@pytest.mark.parametrize("jump_s", [-86_400, -3_600, 3_600, 86_400])
def test_a_clock_that_jumps_makes_a_new_signature(jump_s: int) -> None:
    clock = ManualClock()
    signer = Signer(KEY, clock=clock)
    first = signer(b"acme")
    clock.set(clock.now() + timedelta(seconds=jump_s))

    assert until(signer(b"acme")) == until(first) + jump_s


def test_signatures_follow_the_servers_clock() -> None:
    signer = Signer(KEY, clock=ManualClock())
    before = signer(b"acme")

    signer.server_says(1_900_000_000.0)

    assert until(signer(b"acme")) == 1_900_000_000 + SIGNATURE_LIFETIME_S != until(before)


def test_tenants_have_signatures_of_their_own_and_no_tenant_has_none() -> None:
    signer = Signer(KEY, clock=ManualClock())

    assert signature(signer(b"a")) != signature(signer(b"b"))
    assert signature(signer(b"")) == b""


def test_signatures_of_the_least_recent_tenants_are_forgotten() -> None:
    signer = Signer(KEY, clock=ManualClock())
    first = signer(b"first")
    for number in range(SIGNATURES_MAX):
        signer(b"%d" % number)

    assert len(signer._signed) == SIGNATURES_MAX
    assert signer(b"first") is not first
