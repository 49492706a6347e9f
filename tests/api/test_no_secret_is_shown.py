"""A thousand marked secrets go through everything that takes one; afterwards none is found in anything that was said (G1, SCR-04).

Said is: log lines of every level, in both shapes; texts of errors, with what they were raised from; representations of all results;
what the audit log and the lists of keys hold; the file of the store, whole.
"""

from __future__ import annotations

import io
import logging
import traceback
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.fixtures.stores import STORES, fresh_tenant, opened

from llmspell.clock import ManualClock
from llmspell.errors import LlmspellError
from llmspell.observe import LOGGER_NAME, configure_logging, logger
from llmspell.security.access_keys import IssuedKey
from llmspell.security.keyring import Keyring, new_master_key, read_keyring
from llmspell.security.secrets import MountedSecrets, api_key_ref, get_api_key
from llmspell.settings import Secret, SecuritySettings, load_settings
from llmspell.spell import Spell, Tenant

MARKERS = 1_000
MARK = "MARKED"


class Said:
    """Everything that was said, and what must not be in it."""

    def __init__(self) -> None:
        self.text = io.StringIO()
        self.markers: list[str] = []

    def marker(self, shape: str = "{}") -> str:
        """A new secret of a shape."""
        marker = f"{MARK}{len(self.markers):04d}x"
        self.markers.append(marker)
        return shape.format(marker)

    def note(self, *things: Any) -> None:
        for thing in things:
            self.text.write(f"{thing!r} {thing}\n")

    async def during(self, call: Awaitable[Any]) -> Any:
        """Await a call, and note what it gives or how it fails."""
        try:
            result = await call
        except (LlmspellError, TypeError) as error:
            self.note(error, error.args, getattr(error, "fields", None))
            self.text.write("".join(traceback.format_exception(error)))
            logger.exception("a call failed", exc_info=error)
            return None
        self.note(result)
        logger.info("a call gave %s", result, extra={"fields": {"result": result}})
        return result

    def found(self) -> list[str]:
        text = self.text.getvalue()
        return [marker for marker in self.markers if marker in text]


@pytest.fixture
def said() -> Iterator[Said]:
    """Listens to all log lines, redacted as they are and as they were made."""
    noted = Said()
    raw = logging.StreamHandler(noted.text)
    logging.getLogger(LOGGER_NAME).addHandler(raw)
    configure_logging("debug", stream=noted.text, as_json=True)
    yield noted
    logging.getLogger(LOGGER_NAME).removeHandler(raw)
    configure_logging("off")
    logging.getLogger(LOGGER_NAME).setLevel(logging.NOTSET)


async def use_api_keys(said: Said, acme: Tenant, number: int) -> None:
    """One secret kept, rotated and revealed, and some that are refused."""
    keys = acme.api_keys
    service = f"service-{number % 7}"
    await said.during(keys.set(service, said.marker("sk-{}")))
    await said.during(keys.rotate(service, Secret(said.marker()), metadata={"n": number}))
    await said.during(keys.reveal(service))
    await said.during(keys.find(service))
    for bad in ("{}\n", "{}\0", "{}" + "x" * 16_384, "{}\ud800"):
        await said.during(keys.set(service, said.marker(bad)))
    await said.during(keys.set(service, said.marker().encode()))  # type: ignore[arg-type]
    await said.during(keys.set("", said.marker()))
    await said.during(keys.set(service, said.marker(), ttl_s=-1))
    await said.during(keys.rotate(f"absent-{number}", said.marker()))
    await said.during(keys.set(service, said.marker(), metadata={"n": float("nan")}))
    await said.during(keys.get(Secret(said.marker())))  # type: ignore[arg-type]


async def use_access_keys(said: Said, spell: Spell, acme: Tenant) -> None:
    """One key issued, used, misused, rotated and revoked. Its secret part is a marker too."""
    issued = await said.during(acme.access_keys.issue(name="ci", scopes=["read"]))
    rotated = await said.during(acme.access_keys.rotate(issued.info.key_id, overlap_s=5))
    for one in (issued, rotated):
        assert isinstance(one, IssuedKey)
        text = one.key.reveal()
        said.markers.append(text.rpartition("_")[2])
        await said.during(spell.authenticate(one.key))
        await said.during(spell.authenticate(text))
        await said.during(spell.authenticate(text[:-1]))
        logger.warning("presented: %s", one.key)
    await said.during(acme.access_keys.revoke(rotated.info.key_id))
    await said.during(spell.authenticate(said.marker("lsk_a_b_{}")))
    await said.during(acme.access_keys.get(Secret(said.marker())))  # type: ignore[arg-type]


async def use_elsewhere(said: Said, folder: Path, number: int) -> None:
    """Secrets of the environment, of files, and master keys."""
    environ = {"MARKED_API_KEY": said.marker(), "LLMSPELL_MASTER_KEY": said.marker("lsmk_{}")}
    await said.during(get_api_key("marked", environ=environ))
    file = folder / "mounted" / f"p{number}"
    file.mkdir(parents=True)
    for content in ("{}\n", "{}\nsecond line", "{}" * 2_000):
        store = MountedSecrets(folder / "mounted")
        path = folder / "mounted" / "llmspell" / f"p{number}" / "api_key"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(said.marker(content) if content.count("{}") == 1 else said.marker("{}" + "x" * 20_000))
        await said.during(store.get_secret(api_key_ref(f"p{number}")))
    settings = load_settings(environ=environ, start=folder)
    said.note(settings, settings.security)

    async def read(text: str) -> Keyring:
        return read_keyring(Secret(text))

    await said.during(read(environ["LLMSPELL_MASTER_KEY"]))
    text = new_master_key().reveal()
    said.markers.append(text.removeprefix("lsmk_"))
    keyring = await said.during(read(text))
    sealed = keyring.seal(said.marker().encode(), bound_to=("a",))

    async def open_elsewhere() -> bytes:
        return keyring.open(sealed, bound_to=("b",))  # type: ignore[no-any-return]

    await said.during(open_elsewhere())


@pytest.mark.parametrize("backend", STORES)
async def test_of_a_thousand_marked_secrets_none_is_said(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path, said: Said
) -> None:
    master = new_master_key()
    said.markers.append(master.reveal().removeprefix("lsmk_"))
    security = SecuritySettings(master_keys=master)
    async with opened(backend, request, tmp_path, clock=ManualClock(), security=security) as spell:
        acme = await fresh_tenant(spell)
        number = 0
        while len(said.markers) < MARKERS:
            number += 1
            await use_api_keys(said, acme, number)
            await use_access_keys(said, spell, acme)
            await use_elsewhere(said, tmp_path, number)
        calls: list[Callable[[], Awaitable[Any]]] = [
            lambda: acme.api_keys.list(limit=1_000),
            lambda: acme.access_keys.list(limit=1_000),
            lambda: acme.api_keys.stats(),
            lambda: acme.api_keys.reseal_all(dry_run=True),
            lambda: acme.audit.list(limit=1_000),
        ]
        for call in calls:
            await said.during(call())
        said.note(spell, acme, vars(spell), vars(acme))
        for part in (acme.api_keys, acme.access_keys, spell._secrets, spell._authenticator):
            said.note(part, {name: value for name, value in vars(part).items() if not isinstance(value, dict)})

    assert "a call failed" in said.text.getvalue()
    assert "a call gave" in said.text.getvalue()
    assert said.found() == []
    for file in tmp_path.glob("store.db*"):
        content = file.read_bytes()
        assert MARK.encode() not in content
        assert not [marker for marker in said.markers if marker.encode() in content]


def test_a_secret_that_is_said_is_found(said: Said) -> None:
    """The search itself: a line that redaction does not know is seen by it."""
    logger.warning("the key is %s", said.marker())

    assert said.found() == said.markers
