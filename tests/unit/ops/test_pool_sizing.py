"""Pool sizes by the published formula, and the limit of the server."""

from __future__ import annotations

from typing import Any

import pytest

from llmspell.errors import InvalidLimit
from llmspell.ops.pool_sizing import plan, pool_size


@pytest.mark.parametrize(
    ("cores", "spindles", "expected"),
    [(8, 1, 20), (16, 1, 35), (4, 2, 10), (1, 0, 5), (2, 1, 5), (64, 1, 130)],
)
def test_the_size_is_twice_the_cores_and_the_spindles_rounded_up_to_a_multiple_of_five(
    cores: int, spindles: int, expected: int
) -> None:
    assert pool_size(cores=cores, spindles=spindles) == expected


def test_three_instances_of_twenty_need_exactly_one_hundred_connections() -> None:
    planned = plan(cores=8, instances=3, max_connections=100)

    assert (planned.pool_size, planned.connections, planned.fits) == (20, 100, True)


def test_one_connection_less_is_too_few() -> None:
    planned = plan(cores=8, instances=3, max_connections=99)

    assert (planned.fits, planned.pool_size_that_fits) == (False, 19)


def test_three_replicas_with_a_pool_of_thirty_two_do_not_fit_one_hundred() -> None:
    planned = plan(cores=8, instances=3, size=32, max_connections=100)

    assert (planned.connections, planned.fits) == (136, False)


def test_no_pool_fits_when_the_reserves_take_everything() -> None:
    assert plan(cores=8, instances=3, max_connections=42).pool_size_that_fits == 0


def test_without_a_limit_nothing_is_judged() -> None:
    assert plan(cores=8).fits is None


@pytest.mark.parametrize(
    "given", [{"cores": 0}, {"cores": True}, {"cores": 8, "spindles": -1}, {"cores": 8, "instances": 0}]
)
def test_impossible_numbers_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidLimit):
        plan(**given)
