"""The dashboard and the alerts: every expression is PromQL over metrics and labels that we export."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from pg_embed.errors import ModelUnavailable
from pg_embed.jobs import STATES, Figures, Lane, LaneFigures, VectorizerFigures
from pg_embed.records import Priority
from pg_embed.serve.metrics import Metrics
from pg_embed.serve.work_metrics import WorkMetrics

DOCKER = Path(__file__).resolve().parents[3] / "docker"
BOARD = json.loads((DOCKER / "grafana" / "pg_embed.json").read_text(encoding="utf-8"))
ALERTS = yaml.safe_load((DOCKER / "prometheus" / "alerts.yaml").read_text(encoding="utf-8"))
OF_PROMETHEUS = {"job", "instance"}  # labels that a scrape adds
Values = dict[str, set[str]]


def metrics() -> Metrics:
    """Everything told once, by the methods that the program calls."""
    error = ModelUnavailable("slow down", limited=True)
    found = Metrics()
    with found.timed("unix"):
        pass
    found.loaded("m", 1.0, None)
    for priority in Priority:
        for outcome in (None, error):
            found.computed("m", priority, 1, 1, 1.0, outcome)
            found.answered("m", priority, 1, 1.0, outcome)
        found.queued("m", priority, 1)
        found.throttled("m", priority, 1.0)
    found.remembered("m", 1, 1)
    work = WorkMetrics(found.registry)
    for lane in Lane:
        work.batch_done("v", lane, 1, 1, 1.0)
        work.batch_postponed("v", lane, "limited")
    work.reused("m", 1, 1)
    work.rescued(1)
    for is_built in (True, False):
        work.index_built("v", 1.0, is_built=is_built)
    work.connected(True)
    work.connections(1, 1)
    lanes = dict.fromkeys(Lane, LaneFigures(1, 1, 1.0))
    vectorizers = [VectorizerFigures(state, state, None, 1, 1, lanes) for state in STATES]
    work.figures(Figures(1, vectorizers, {"m": 1.0}))
    return found


@cache
def exported() -> dict[str, Values]:
    """The values of each label of each sample."""
    found: dict[str, Values] = {}
    for family in metrics().registry.collect():
        for sample in family.samples:
            values = found.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                values.setdefault(label, set()).add(value)
    return found


def panels() -> Iterator[dict[str, Any]]:
    for panel in BOARD["panels"]:
        yield panel
        yield from panel["panels"] if panel["type"] == "row" else []


def expressions() -> Iterator[tuple[str, str]]:
    """Where each stands, and what it is; Grafana's own words are put in."""
    for panel in panels():
        for target in panel.get("targets", []):
            yield f"panel {panel['title']}", target["expr"].replace("$__rate_interval", "5m")
    for variable in BOARD["templating"]["list"]:
        if variable["type"] == "query":
            selector = re.fullmatch(r"label_values\((.*), \w+\)", variable["definition"])
            assert selector is not None
            yield f"variable {variable['name']}", selector[1]
    for group in ALERTS["groups"]:
        for rule in group["rules"]:
            yield f"alert {rule['alert']}", rule["expr"]


def nodes(expression: str) -> list[Any]:
    """All parts of an expression."""
    found: list[Any] = []
    promql_parser.walk(promql_parser.parse(expression), found.append)
    return found


@pytest.mark.parametrize(("where", "expression"), [pytest.param(*pair, id=pair[0]) for pair in expressions()])
def test_an_expression_asks_for_what_is_exported(where: str, expression: str) -> None:
    parts = nodes(expression)
    selectors = [part for part in parts if isinstance(part, promql_parser.VectorSelector)]
    assert selectors
    labels = set(OF_PROMETHEUS)
    for selector in selectors:
        assert selector.name in exported(), f"{where}: nobody exports {selector.name}"
        known = exported()[selector.name]
        labels |= set(known)
        for matcher in selector.matchers.matchers:
            assert matcher.name in {*known, *OF_PROMETHEUS}, f"{where}: {selector.name} has no such label"
            if matcher.name in ("state", "outcome", "lane") and "$" not in matcher.value:
                assert set(matcher.value.split("|")) <= known[matcher.name], where
    for part in parts:
        if isinstance(part, promql_parser.AggregateExpr) and part.modifier is not None:
            assert set(part.modifier.labels) <= labels, where


def test_what_only_grows_is_asked_for_by_its_rate() -> None:
    for where, expression in expressions():
        if where.startswith("variable"):
            continue
        text = expression.replace(" ", "")
        for name in re.findall(r"pg_embed_\w+(?:_total|_bucket|_sum|_count)\b", text):
            assert re.search(rf"(rate|increase)\({name}", text), f"{where}: {name} only ever grows"


def test_every_metric_is_on_the_dashboard() -> None:
    text = json.dumps(BOARD)
    families = {family.name for family in metrics().registry.collect()}
    assert len(families) > 25
    assert {name for name in families if name not in text} == set()


def test_a_label_of_a_legend_is_one_that_the_expression_keeps() -> None:
    for panel in panels():
        for target in panel.get("targets", []):
            kept = {
                label
                for part in nodes(target["expr"].replace("$__rate_interval", "5m"))
                if isinstance(part, promql_parser.AggregateExpr) and part.modifier is not None
                for label in part.modifier.labels
            }
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= kept, panel["title"]


def test_panels_have_places_of_their_own() -> None:
    cells: set[tuple[int, int]] = set()
    ids = [panel["id"] for panel in panels()]
    assert len(set(ids)) == len(ids)
    for panel in panels():
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        mine = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not mine & cells, panel["title"]
        cells |= mine


def test_alerts_say_what_is_wrong_and_what_to_do() -> None:
    rules = [rule for group in ALERTS["groups"] for rule in group["rules"]]
    assert {"PgEmbedNoWorker", "PgEmbedQueueIsOld", "PgEmbedRowsGivenUp", "PgEmbedAccountRefused"} <= {
        rule["alert"] for rule in rules
    }
    for rule in rules:
        assert set(rule["annotations"]) == {"summary", "description"}
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        aggregated = (
            set(re.findall(r"by \(([^)]*)\)", rule["expr"])[0].split(", "))
            if "by (" in rule["expr"]
            else set()
        )
        assert set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])) <= aggregated
