"""The vectors that `vectors.py` searches, made from a seed, and the exact answers that engines are held to.

    easy  clusters well separated: centres drawn on the sphere (nearly orthogonal in 384 dimensions), 250 vectors around each,
          noise of half the centre's length
    hard  anisotropic and overlapping: the standard deviation of dimension j is j^-0.6, centres and noise share that spectrum, 100
          vectors around each centre, and the noise is wider than the centres lie apart, so that the neighbours of a vector
          belong to many clusters; of 100,000 a plain graph of 16 links finds about 84 % at ef 32

Questions are drawn from the same distribution as the data and are not in it. All vectors have length 1. Every row carries a group
(0 to 99) and a decile (0 to 9) that have nothing to do with where it lies: what filters select is spread over the whole space.

Rule: recall counts a row when its true score, in double precision, reaches that of the k-th best row that may be found, within
`TOLERANCE`: rows that score alike are as good as each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

DIMENSION = 384
K = 10
TENANTS = 100
SETS = ("easy", "hard")
FILTERS = {"group": 100, "decile": 10}
"""A field of the metadata, and how many values it has: an equality selects 1 % and 10 % of the rows."""
EASY_CLUSTER, EASY_NOISE = 250, 0.5
HARD_CLUSTER, HARD_SPECTRUM, HARD_NOISE = 100, 0.6, 2.3
TOLERANCE = 2e-6
"""Scores are single precision, rounded to 1e-6."""
CHUNK = 10_000
Vectors = NDArray[np.float32]


class Question(msgspec.Struct, frozen=True):
    """What is asked: a vector, the tenant (0 where there is one), and the field and value that rows must have."""

    vector: Any
    tenant: int = 0
    where: tuple[str, int] | None = None


class Data(msgspec.Struct, frozen=True):
    """Rows, and questions about them. `tenants` has the first row of each tenant and the end; rows of a tenant lie together."""

    name: str
    vectors: Any
    questions: list[Question]
    group: Any
    decile: Any
    tenants: list[int]

    @property
    def rows(self) -> int:
        return len(self.vectors)

    def of(self, tenant: int) -> slice:
        """The rows of a tenant."""
        return slice(self.tenants[tenant], self.tenants[tenant + 1])

    def metadata(self, row: int) -> dict[str, int]:
        """What is stored beside a vector."""
        return {"n": row, "group": int(self.group[row]), "decile": int(self.decile[row])}

    def field(self, name: str) -> NDArray[np.int64]:
        """The values of a field of the metadata, row by row."""
        values: NDArray[np.int64] = {"group": self.group, "decile": self.decile}[name]
        return values


def make(name: str, *, rows: int, questions: int, seed: int) -> Data:
    """Return a set of vectors with questions; the same seed gives the same set."""
    source = np.random.default_rng([seed, SETS.index(name)])
    drawn = {"easy": _easy, "hard": _hard}[name](rows, rows + questions, source)
    unit = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)
    return Data(
        name=name,
        vectors=np.ascontiguousarray(unit[:rows]),
        questions=[Question(vector) for vector in np.ascontiguousarray(unit[rows:])],
        group=source.permutation(rows) % FILTERS["group"],
        decile=source.permutation(rows) % FILTERS["decile"],
        tenants=[0, rows],
    )


def _easy(rows: int, drawn: int, source: np.random.Generator) -> NDArray[np.float64]:
    centres = source.standard_normal((max(1, rows // EASY_CLUSTER), DIMENSION))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    noise = source.standard_normal((drawn, DIMENSION)) * (EASY_NOISE / np.sqrt(DIMENSION))
    return centres[source.integers(0, len(centres), drawn)] + noise


def _hard(rows: int, drawn: int, source: np.random.Generator) -> NDArray[np.float64]:
    spectrum = np.arange(1, DIMENSION + 1) ** -HARD_SPECTRUM
    centres = source.standard_normal((max(1, rows // HARD_CLUSTER), DIMENSION))
    noise = source.standard_normal((drawn, DIMENSION)) * HARD_NOISE
    return (centres[source.integers(0, len(centres), drawn)] + noise) * spectrum


def described_set(name: str) -> str:
    """Say in a sentence how a set is made."""
    return {
        "easy": f"clusters well separated: {EASY_CLUSTER} vectors around each centre on the sphere, "
        f"noise {EASY_NOISE} of its length",
        "hard": f"anisotropic, overlapping clusters: standard deviation of dimension j is j^-{HARD_SPECTRUM}, "
        f"{HARD_CLUSTER} vectors around each centre, noise {HARD_NOISE} times as wide as the centres",
    }[name]


def among_tenants(data: Data) -> Data:
    """The same rows, given to 100 tenants of equal size; questions go round the tenants."""
    each = data.rows // TENANTS
    asked = [Question(one.vector, tenant=number % TENANTS) for number, one in enumerate(data.questions)]
    return msgspec.structs.replace(data, questions=asked, tenants=[each * tenant for tenant in range(TENANTS + 1)])


def filtered(data: Data, field: str) -> Data:
    """The same rows; each question wants another value of a field."""
    asked = [Question(one.vector, where=(field, number % FILTERS[field])) for number, one in enumerate(data.questions)]
    return msgspec.structs.replace(data, questions=asked)


class Exact:
    """The exact answers to the questions of a set."""

    def __init__(self, data: Data) -> None:
        self._data = data
        self._least = np.empty(len(data.questions))
        self._wanted = np.empty(len(data.questions), dtype=np.int64)
        kinds: dict[tuple[Any, ...], list[int]] = {}
        for number, question in enumerate(data.questions):
            kinds.setdefault((question.tenant, question.where), []).append(number)
        for (tenant, where), numbers in kinds.items():
            rows = np.arange(data.rows)[data.of(tenant)]
            if where is not None:
                rows = rows[data.field(where[0])[rows] == where[1]]
            self._wanted[numbers] = min(K, len(rows))
            self._least[numbers] = _kth_best(data, rows, numbers)

    def wanted(self, number: int) -> int:
        """How many rows the answer to a question has."""
        return int(self._wanted[number])

    def recall(self, number: int, found: Sequence[int]) -> float:
        """Return the share of the answer to a question that was found. Rows that may not be found make it 0."""
        question = self._data.questions[number]
        rows = np.asarray(sorted(set(found)), dtype=np.int64)
        if len(rows) != len(found) or len(rows) > K or not self._allowed(rows, question):
            return 0.0
        scores = self._data.vectors[rows].astype(np.float64) @ question.vector.astype(np.float64)
        return float(np.sum(scores >= self._least[number] - TOLERANCE) / self._wanted[number])

    def _allowed(self, rows: NDArray[np.int64], question: Question) -> bool:
        own = self._data.of(question.tenant)
        if np.any(rows < own.start) or np.any(rows >= own.stop):
            return False
        return question.where is None or bool(np.all(self._data.field(question.where[0])[rows] == question.where[1]))


def _kth_best(data: Data, rows: NDArray[np.int64], numbers: list[int]) -> NDArray[np.float64]:
    """The true score of the k-th best of these rows, question by question."""
    asked = np.array([data.questions[number].vector for number in numbers], dtype=np.float64)
    best = np.empty((len(numbers), 0))
    for start in range(0, len(rows), CHUNK):
        scores = asked @ data.vectors[rows[start : start + CHUNK]].astype(np.float64).T
        best = np.sort(np.hstack([best, scores]), axis=1)[:, -K:]
    return best[:, 0]


def true_score(data: Data, row: int, question: Question) -> float:
    """The cosine similarity of a row and a question, in double precision."""
    stored, asked = data.vectors[row].astype(np.float64), question.vector.astype(np.float64)
    return float(stored @ asked / (np.linalg.norm(stored) * np.linalg.norm(asked)))
