"""A slice of the soak that `make soak` runs for long: every kind of fault, some of them often."""

from __future__ import annotations

from itertools import islice

import pytest

from tests.faults.injecting import FREQUENCY, plan
from tests.faults.soak import soak
from tests.faults.writers import new_seed

FAULTS = 150
LONGEST = 240.0  # seconds, on a busy machine; then what was injected is checked, and it may be fewer
FEWEST = 40
ALWAYS = {  # where it is tried it hits; the others may find nothing to harm
    "clock_jumped",
    "backend_killed",
    "postgres_restarted",
    "postgres_killed",
    "worker_killed",
    "sidecar_killed",
}


@pytest.mark.timeout(600)
def test_nothing_is_lost_or_left_behind_whatever_fails() -> None:
    report = soak(new_seed(), faults=FAULTS, pause=0.05, seconds=LONGEST)
    assert report.violations == 0
    assert report.injected >= FEWEST
    assert set(report.faults) >= ALWAYS
    assert report.searches["vectors"] > 0
    assert report.searches["searches"] > 0


def test_a_seed_gives_the_same_plan_and_every_kind_comes_first() -> None:
    first = list(islice(plan(7, 0.1), 200))
    assert first == list(islice(plan(7, 0.1), 200))
    assert first != list(islice(plan(8, 0.1), 200))
    assert {planned.harm for planned in first[: len(FREQUENCY)]} == set(FREQUENCY)
