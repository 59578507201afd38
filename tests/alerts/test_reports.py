"""Reading what Prometheus and Alertmanager post."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from django.utils import translation

from alerts import reports

ALERT = {
    "labels": {"alertname": "error_rate", "project": "default", "rule_id": "7", "level": "P1", "notify_policy": ""},
    "annotations": {"value": "31.08", "threshold": "5", "summary": "31.08 % of calls fail"},
    "startsAt": "2026-11-22T14:55:36.515Z",
    "endsAt": "2026-11-22T14:59:36.515Z",
    "generatorURL": "http://prometheus:9090/graph?g0.expr=%28sum%28x%29%29+%3E+5&g0.tab=1",
}


def of_prometheus(*alerts: Any) -> list[reports.Report]:
    return reports.of_prometheus(json.dumps(alerts).encode())


def test_an_alert_of_prometheus_is_read() -> None:
    (report,) = of_prometheus(ALERT)

    assert report.starts_at == datetime(2026, 11, 22, 14, 55, 36, 515_000, UTC)
    assert (report.value, report.threshold, report.level) == (31.08, 5.0, "P1")
    assert report.expression == "(sum(x)) > 5"
    assert report.labels == {"alertname": "error_rate", "project": "default", "rule_id": "7", "level": "P1"}
    assert report.is_ours


def test_a_group_of_alertmanager_is_read() -> None:
    body = {
        "version": "4", "status": "firing", "groupKey": "{}:{}", "truncatedAlerts": 3,
        "groupLabels": {"notify_policy": "12", "level": "P1"}, "commonLabels": {}, "commonAnnotations": {},
        "alerts": [
            {**ALERT, "status": "firing", "endsAt": "0001-01-01T00:00:00Z", "fingerprint": "4a72f8eed8225ef7"},
            {**ALERT, "status": "resolved", "startsAt": "2026-11-22T14:55:36.515123456Z"},
        ],
    }  # fmt: skip
    post = reports.of_alertmanager(json.dumps(body).encode())

    assert (post.policy_id, post.left_out) == ("12", 3)
    firing, resolved = post.reports
    assert firing.ends_at is None
    assert firing.is_firing(datetime(2030, 1, 1, tzinfo=UTC))
    assert not resolved.is_firing(datetime(2020, 1, 1, tzinfo=UTC))
    assert firing.starts_at == resolved.starts_at
    assert firing.fingerprint == of_prometheus(ALERT)[0].fingerprint


def test_an_alert_has_one_name_whoever_tells_of_it() -> None:
    plain = reports.fingerprint({"a": "1", "b": "2"})

    assert plain == reports.fingerprint({"b": "2", "a": "1"})
    assert plain == reports.fingerprint({"b": "2", "a": "1", "replica": "b", "cluster": "x"})
    assert plain == reports.fingerprint({"a": "1", "b": "2", "c": ""})
    assert plain != reports.fingerprint({"a": "12", "b": ""})


@pytest.mark.parametrize("text", ["NaN", "+Inf", "-Inf", "", "five", None])
def test_what_no_column_can_hold_is_no_value(text: str | None) -> None:
    assert reports.number(text) is None


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"\xff", "The body is not JSON."),
        (b"[" * 100_000, "The body is not JSON."),
        (b"{}", "The body must be a list of alerts."),
        (b"[1]", "Alert 1 is not an object."),
        (b'[{"labels": 5}]', "labels (1) must be texts by name."),
        (b'[{"labels": {"a": 5}}]', "labels (1) must be texts by name."),
        (rb'[{"labels": {"alertname": "\ud800"}}]', "labels (1) must be texts by name."),
        (rb'[{"labels": {"\udfff": "a"}}]', "labels (1) must be texts by name."),
        (b'[{"labels": {"a": "b"}}]', "Alert 1 has no alertname."),
        (b'[{"labels": {"alertname": "b"}}]', "Alert 1 does not say when it began."),
        (b'[{"labels": {"alertname": "b"}, "startsAt": "soon"}]', "Alert 1 does not say when it began."),
        (b'[{"labels": {"alertname": "b"}, "startsAt": "2026-11-22T14:55:36"}]', "Alert 1 does not say when it began."),
        (
            b'[{"labels": {"alertname": "b"}, "startsAt": "0001-01-01T00:00:00Z"}]',
            "Alert 1 does not say when it began.",
        ),
        (b'[{"labels": {"alertname": "b"}, "startsAt": 5}]', "Alert 1 does not say when it began."),
    ],
)
def test_a_post_that_cannot_be_read_is_refused_with_a_sentence(body: bytes, sentence: str) -> None:
    with translation.override("en"), pytest.raises(reports.BadPost) as refused:
        reports.of_prometheus(body)

    assert refused.value.message == sentence


def test_text_that_the_database_cannot_hold_is_left_out() -> None:
    (report,) = of_prometheus({
        **ALERT, "labels": {"alertname": "a\0b"}, "generatorURL": "http://prometheus/graph?g0.expr=a\0\ud800%ED%A0%80b",
    })  # fmt: skip

    assert report.labels["alertname"] == "ab"
    report.expression.encode()


def test_half_a_character_in_a_group_s_labels_is_refused() -> None:
    body = rb'{"version": "4", "alerts": [], "groupLabels": {"project": "\ud800"}}'
    with translation.override("en"), pytest.raises(reports.BadPost, match="groupLabels must be texts by name"):
        reports.of_alertmanager(body)
