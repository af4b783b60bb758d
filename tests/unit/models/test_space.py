"""The fingerprint of a space."""

from __future__ import annotations

from pg_embed.models.space import space_id


def test_it_is_the_same_for_ever() -> None:
    assert space_id("fake", dimensions=8) == "f4e1dc7cdc8b1413541d34421fe8a8a4"


def test_the_order_of_facts_and_facts_without_value_do_not_count() -> None:
    assert space_id("f", a=1, b={"x": 1, "y": 2}) == space_id("f", b={"y": 2, "x": 1}, a=1, c=None)


def test_every_fact_counts() -> None:
    spaces = {space_id("f"), space_id("g"), space_id("f", a=1), space_id("f", a="1"), space_id("f", b=1)}
    assert len(spaces) == 5
