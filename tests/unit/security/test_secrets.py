"""Where secrets are looked for, and what may not be reached (SCR-01, SCR-02)."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest

from llmspell.errors import InvalidInput, InvalidKey, Unavailable
from llmspell.security.secrets import HeldSecret, MountedSecrets, SecretRef, api_key_ref, get_api_key
from llmspell.settings import Secret

REF = SecretRef("llmspell/openai/api_key")


class Kept:
    """A store with one secret, that remembers what it was asked."""

    def __init__(self, text: str | None) -> None:
        self.text = text
        self.asked: list[SecretRef] = []

    async def get_secret(self, ref: SecretRef) -> Secret | None:
        self.asked.append(ref)
        return None if self.text is None else Secret(self.text)


def mounted(folder: Path, content: bytes, name: str = REF.path) -> MountedSecrets:
    file = folder / "secrets" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return MountedSecrets(folder / "secrets")


async def test_the_environment_comes_before_every_store() -> None:
    store = Kept("kept")

    found = await get_api_key("open-ai", stores=[store], environ={"OPEN_AI_API_KEY": "given"})

    assert found == Secret("given")
    assert store.asked == []


async def test_stores_are_asked_in_their_order_for_one_reference() -> None:
    first, second, third = Kept(None), Kept("second"), Kept("third")

    found = await get_api_key("openai", stores=[first, second, third], environ={"OPENAI_API_KEY": ""})

    assert found == Secret("second")
    assert (first.asked, second.asked, third.asked) == ([REF], [REF], [])
    assert await get_api_key("openai", environ={}) is None


@pytest.mark.parametrize("provider", ["", "a/b", "../x", "a b", "é", "x" * 65, ".", None])
async def test_a_bad_provider_is_refused(provider: str) -> None:
    with pytest.raises(InvalidKey):
        await get_api_key(provider, environ={})


@pytest.mark.parametrize("path", ["", "/", "a//b", "../a", "a/../b", ".hidden", "a/b/", "a\0", "a/" * 8 + "a", "é"])
def test_a_reference_is_made_of_plain_names(path: str) -> None:
    with pytest.raises(InvalidKey):
        SecretRef(path)


@pytest.mark.parametrize("content", [b"key", b"key\n", b"key\r\n"])
async def test_a_mounted_file_is_read_without_its_line_end(tmp_path: Path, content: bytes) -> None:
    assert await mounted(tmp_path, content).get_secret(api_key_ref("openai")) == Secret("key")


async def test_links_within_the_directory_are_followed_as_mounts_make_them(tmp_path: Path) -> None:
    store = mounted(tmp_path, b"key", "..2026/api_key")
    (tmp_path / "secrets/..data").symlink_to("..2026")
    (tmp_path / "secrets/api_key").symlink_to("..data/api_key")

    assert await store.get_secret(SecretRef("api_key")) == Secret("key")


async def test_links_out_of_the_directory_are_refused(tmp_path: Path) -> None:
    store = mounted(tmp_path, b"key", "inside")
    (tmp_path / "outside").write_text("other")
    (tmp_path / "secrets/api_key").symlink_to(tmp_path / "outside")

    with pytest.raises(InvalidInput, match="inside of the directory"):
        await store.get_secret(SecretRef("api_key"))


async def test_an_absent_file_is_none(tmp_path: Path) -> None:
    store = mounted(tmp_path, b"key")

    assert await store.get_secret(SecretRef("llmspell/other/api_key")) is None
    assert await store.get_secret(SecretRef("llmspell/openai/api_key/deeper")) is None
    assert await MountedSecrets(tmp_path / "absent").get_secret(REF) is None


@pytest.mark.parametrize("content", [b"", b"\n", b"a\nb", b"\xff\xfe-marker", b"a\0b", b"x" * 16_385])
async def test_a_file_that_is_no_secret_is_refused_and_not_shown(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(InvalidInput) as caught:
        await mounted(tmp_path, content).get_secret(REF)

    assert "marker" not in f"{caught.value!r} {caught.value.__context__!r}"


async def test_what_cannot_be_read_is_not_taken_for_absent(tmp_path: Path) -> None:
    store = mounted(tmp_path, b"key", f"{REF.path}/a-directory-of-that-name")

    with pytest.raises(Unavailable):
        await store.get_secret(REF)


def test_a_held_secret_is_copied_and_never_pickled() -> None:
    secret = HeldSecret("hunter2")

    assert copy.copy(secret) is copy.deepcopy(secret) is secret
    assert "hunter2" not in f"{secret} {secret!r} {[secret]} {secret:}"
    with pytest.raises(TypeError):
        pickle.dumps({"key": secret})
