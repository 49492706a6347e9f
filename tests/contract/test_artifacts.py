"""The contract of `artifacts`, on every backend."""

from __future__ import annotations

from llmspell.testing.contract.artifacts import ArtifactsContract
from llmspell.testing.contract.artifacts_references import ArtifactReferencesContract


class TestArtifacts(ArtifactsContract):
    pass


class TestArtifactReferences(ArtifactReferencesContract):
    pass
