"""The key of scoped state: no two scopes and keys share one, and each comes back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmspell.errors import InvalidKey
from llmspell.memory.state import StateScope, decode_key, encode_key, prefix_of

TEXT = st.one_of(
    st.text(alphabet=":%235Aa", min_size=1, max_size=8),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8),
)
KINDS = [StateScope.User, StateScope.Session, StateScope.Agent, StateScope.Tool, StateScope.Workflow]
SCOPES = st.one_of(
    st.just(StateScope.Global()),
    *(st.builds(kind, TEXT) for kind in [*KINDS, StateScope.Hook, StateScope.Custom]),
)


@given(SCOPES, TEXT)
def test_what_is_encoded_comes_back(scope: StateScope, key: str) -> None:
    assert decode_key(encode_key(scope, key)) == (scope, key)


@given(SCOPES, TEXT, SCOPES, TEXT)
def test_a_key_begins_with_the_prefix_of_its_own_scope_only(
    scope: StateScope, key: str, other: StateScope, other_key: str
) -> None:
    encoded, theirs = encode_key(scope, key), encode_key(other, other_key)

    assert encoded.startswith(prefix_of(other)) == (scope == other)
    assert (encoded == theirs) == ((scope, key) == (other, other_key))


@given(st.one_of(TEXT, TEXT.map(lambda text: f"state:{text}"), TEXT.map(lambda text: f"state:user:{text}:k")))
def test_another_text_is_refused_or_is_a_key(text: str) -> None:
    try:
        scope, key = decode_key(text)
    except InvalidKey:
        return
    assert encode_key(scope, key) == text
