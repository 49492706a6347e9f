"""Sealed secrets: what opens, and everything that must not (G2, AMB-081)."""

from __future__ import annotations

import copy
import pickle
import random
from collections.abc import Callable

import pytest

from llmspell.errors import InvalidInput, InvalidSetting, MasterKeyMissing, SealBroken
from llmspell.security.keyring import (
    HEADER_BYTES,
    MASTER_KEYS_MAX,
    PLAINTEXT_MAX_BYTES,
    SEALED_EXTRA_BYTES,
    Keyring,
    new_master_key,
    read_keyring,
    sealed_by,
)
from llmspell.settings import Secret

ROW = ("acme", "api_keys", "row-1")
ROUNDS = 100
MARKER = b"sk-marker-0123456789abcdef"


@pytest.fixture
def keyring() -> Keyring:
    return read_keyring(new_master_key())


@pytest.mark.parametrize("size", [0, 1, 31, 1_000, PLAINTEXT_MAX_BYTES])
def test_what_was_sealed_opens_with_the_same_bindings(keyring: Keyring, size: int) -> None:
    plaintext = random.Random(size).randbytes(size)

    sealed = keyring.seal(plaintext, bound_to=ROW)

    assert keyring.open(sealed, bound_to=ROW) == plaintext
    assert len(sealed) == size + SEALED_EXTRA_BYTES


def test_sealed_bytes_do_not_hold_the_secret(keyring: Keyring) -> None:
    assert MARKER not in keyring.seal(MARKER, bound_to=ROW)


def test_sealing_twice_gives_different_bytes(keyring: Keyring) -> None:
    assert len({keyring.seal(MARKER, bound_to=ROW) for _ in range(ROUNDS)}) == ROUNDS


def flipped(sealed: bytes, first: int, last: int, source: random.Random) -> bytes:
    """One bit of `sealed[first:last]` turned."""
    altered = bytearray(sealed)
    altered[source.randrange(first, last)] ^= 1 << source.randrange(8)
    return bytes(altered)


TAMPERING: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "magic or version": lambda sealed, source: flipped(sealed, 0, 4, source),
    "key id": lambda sealed, source: flipped(sealed, 4, 12, source),
    "salt": lambda sealed, source: flipped(sealed, 12, 28, source),
    "nonce": lambda sealed, source: flipped(sealed, 28, HEADER_BYTES, source),
    "ciphertext": lambda sealed, source: flipped(sealed, HEADER_BYTES, len(sealed) - 16, source),
    "tag": lambda sealed, source: flipped(sealed, len(sealed) - 16, len(sealed), source),
    "cut": lambda sealed, source: sealed[: source.randrange(len(sealed))],
    "extended": lambda sealed, source: sealed + source.randbytes(source.randrange(1, 20)),
}


@pytest.mark.parametrize("kind", TAMPERING)
def test_altered_bytes_never_open(keyring: Keyring, kind: str) -> None:
    source = random.Random(kind)
    for _ in range(ROUNDS):
        sealed = keyring.seal(MARKER, bound_to=ROW)
        with pytest.raises(SealBroken) as caught:
            keyring.open(TAMPERING[kind](sealed, source), bound_to=ROW)
        assert MARKER.decode() not in str(caught.value)


@pytest.mark.parametrize(
    "other",
    [
        ("globex", "api_keys", "row-1"),
        ("acme", "access_keys", "row-1"),
        ("acme", "api_keys", "row-2"),
        ("acme", "api_keys"),
        ("acme", "api_keys", "row-1", ""),
        ("acmeapi_keys", "", "row-1"),
        (),
    ],
)
def test_bytes_of_another_row_or_tenant_never_open(keyring: Keyring, other: tuple[str, ...]) -> None:
    for _ in range(ROUNDS):
        with pytest.raises(SealBroken):
            keyring.open(keyring.seal(MARKER, bound_to=ROW), bound_to=other)


def test_another_master_key_never_opens_and_is_named_by_its_id(keyring: Keyring) -> None:
    for _ in range(ROUNDS):
        sealed = keyring.seal(MARKER, bound_to=ROW)
        with pytest.raises(SealBroken) as caught:
            read_keyring(new_master_key()).open(sealed, bound_to=ROW)
        assert keyring.active is not None
        assert caught.value.fields == {"master_key_id": keyring.active}


def test_after_a_rotation_the_old_key_opens_and_the_new_one_seals() -> None:
    old, new = new_master_key(), new_master_key()
    before, after = read_keyring(old), read_keyring(Secret(f"{new.reveal()},\n{old.reveal()}"))
    sealed = before.seal(MARKER, bound_to=ROW)

    again = after.reseal(sealed, bound_to=ROW)

    assert after.open(sealed, bound_to=ROW) == MARKER
    assert again is not None
    assert read_keyring(new).open(again, bound_to=ROW) == MARKER
    assert sealed_by(again) == after.active == read_keyring(new).active
    assert after.reseal(again, bound_to=ROW) is None
    assert after.key_ids == [after.active, before.active]


def test_resealing_does_not_move_a_secret_to_another_row() -> None:
    old, new = new_master_key(), new_master_key()
    sealed = read_keyring(old).seal(MARKER, bound_to=ROW)

    with pytest.raises(SealBroken):
        read_keyring(Secret(f"{new.reveal()} {old.reveal()}")).reseal(sealed, bound_to=("globex", *ROW[1:]))


def test_without_a_master_key_nothing_is_sealed_and_the_error_says_how_to_make_one() -> None:
    empty = read_keyring(None)

    with pytest.raises(MasterKeyMissing, match="llmspell keys new"):
        empty.seal(MARKER, bound_to=ROW)
    with pytest.raises(MasterKeyMissing):
        empty.reseal(b"", bound_to=ROW)
    assert (empty.active, empty.key_ids, empty.derive("pepper")) == (None, [], None)


def test_too_much_is_refused(keyring: Keyring) -> None:
    with pytest.raises(InvalidInput, match="8,388,608 bytes"):
        keyring.seal(bytes(PLAINTEXT_MAX_BYTES + 1), bound_to=ROW)


def test_what_is_derived_depends_on_the_key_and_on_the_purpose(keyring: Keyring) -> None:
    other = read_keyring(new_master_key())

    derived = {keyring.derive("a"), keyring.derive("b"), other.derive("a")}

    assert len(derived) == 3
    assert keyring.derive("a") == keyring.derive("a", key_id=keyring.active)
    assert keyring.derive("a", key_id=other.active) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-1],
        lambda text: text + "A",
        lambda text: text.removeprefix("lsmk_"),
        lambda text: text.replace("lsmk_", "lsmk-"),
        lambda text: text[:20] + ("A" if text[20] != "A" else "B") + text[21:],
        lambda text: "hunter2",
    ],
)
def test_a_mistyped_master_key_is_refused_and_not_shown(damage: Callable[[str], str]) -> None:
    good, bad = new_master_key().reveal(), damage(new_master_key().reveal())

    with pytest.raises(InvalidSetting, match="Key 2 of") as caught:
        read_keyring(Secret(f"{good}\n{bad}\n"))

    assert bad not in str(caught.value)
    assert caught.value.__cause__ is caught.value.__context__ is None


def test_more_keys_than_the_limit_are_refused() -> None:
    with pytest.raises(InvalidSetting, match=f"at most {MASTER_KEYS_MAX}"):
        read_keyring(Secret("x," * MASTER_KEYS_MAX + "x"))


def test_nothing_shows_a_master_key() -> None:
    text = new_master_key()
    keyring = read_keyring(text)

    assert repr(keyring) == f"Keyring(active={keyring.active}, keys=1)"
    assert text.reveal() not in f"{text} {text!r} {keyring} {vars(keyring).keys()}"
    for duplicate in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot be pickled"):
            duplicate(keyring)
