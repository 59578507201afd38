"""What people type must never read another project, and what is wrong with it is said where it is."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from django.utils import translation
from hypothesis import given, settings
from hypothesis import strategies as st

from alerts import promql
from alerts.metrics import METRICS, SERIES, completion
from alerts.promql import Invalid, MetricForm, confine, of_form
from alerts.templates import CURRENT
from common.errors import DomainError
from gateway.exposition import FAMILIES
from monitoring import exposition
from tests import builders
from tests.builders import NOW


@pytest.fixture(autouse=True)
def _english() -> Iterator[None]:
    with translation.override("en"):
        yield


R = "ark_api_proxy_request_total"
T = "ark_endpoint_tpm_limit"
BY = "by (project, ark_endpoint)"
FORCED = 'project="p",ark_endpoint="ep-1"'


def ordered(text: str) -> str:
    """Without blanks, and matchers in the order of their labels: the printer has its own mind about both."""
    quoted = r'"(?:\\.|[^"\\])*"'
    sort = lambda match: "{" + ",".join(sorted(re.findall(rf"\w+[=!~]+{quoted}", match[1]))) + "}"  # noqa: E731
    return re.sub(rf"\{{((?:{quoted}|[^\"}}])*)\}}", sort, re.sub(r"\s+", "", text))


@pytest.mark.parametrize(
    ("typed", "made"),
    [
        (f"sum({R})", f"sum({R}{{{FORCED}}})"),
        (f"sum(rate({R}[5m]))", f"sum(rate({R}{{{FORCED}}}[5m]))"),
        (f'sum(rate({R}{{code!="Success"}}[5m]))', f'sum(rate({R}{{code!="Success",{FORCED}}}[5m]))'),
        (f'sum({R}{{project="p"}})', f"sum({R}{{{FORCED}}})"),
        (f'sum({R}{{"code"="x"}})', f'sum({R}{{code="x",{FORCED}}})'),
        (f'sum({R}{{code="a\\"}} or {R}{{x=\\"y"}})', f'sum({R}{{code="a\\"}} or {R}{{x=\\"y",{FORCED}}})'),
        (f"sum({R}{{code='it\\'s'}})", f'sum({R}{{code="it\'s",{FORCED}}})'),
        (f"sum({R}{{code=`a`}})", f'sum({R}{{code="a",{FORCED}}})'),
        (f'sum({R}{{code="\\\\"}})', f'sum({R}{{code="\\\\",{FORCED}}})'),
        (f'sum({R}) # {R}{{project="q"}}', f"sum({R}{{{FORCED}}})"),
        (f"max_over_time(sum({R})[1h:1m])", f"max_over_time(sum({R}{{{FORCED}}})[1h:1m])"),
        (f"sum({R} offset 1h)", f"sum({R}{{{FORCED}}} offset 1h)"),
        (f"sum(rate({R}[5m] offset 1h))", f"sum(rate({R}{{{FORCED}}}[5m] offset 1h))"),
        (f"max({T}) unless max({R})", f"max({T}{{{FORCED}}}) unless max({R}{{{FORCED}}})"),
        (f"quantile(scalar(max({T})), {R})", f"quantile(scalar(max({T}{{{FORCED}}})), {R}{{{FORCED}}})"),
        (f"sum without (instance, job) ({R})", f"sum without (instance, job) ({R}{{{FORCED}}})"),
        (f"absent({R}{{code='x'}})", f'absent({R}{{code="x",{FORCED}}})'),
        (
            f"sum {BY} ({R}) / on (project, ark_endpoint) group_left () max {BY} ({T})",
            f"sum {BY} ({R}{{{FORCED}}}) / on (project, ark_endpoint) group_left () max {BY} ({T}{{{FORCED}}})",
        ),
        (f"SUM({R})", f"sum({R}{{{FORCED}}})"),
        (f"topk(3, sum by (code) ({R}))", f"topk(3, sum by (code) ({R}{{{FORCED}}}))"),
        (f"sum({R}) and on() vector(1) == 1", f"sum({R}{{{FORCED}}}) and on () vector(1) == 1"),
        (f'sum({R}{{code="中文 {{{{ $x }}}}"}})', f'sum({R}{{code="中文 {{{{ $x }}}}",{FORCED}}})'),
    ],
)
def test_every_selector_reads_this_project_and_endpoint_alone(typed: str, made: str) -> None:
    assert ordered(confine(typed, project="p", endpoint="ep-1")) == ordered(made)


@pytest.mark.parametrize(
    ("typed", "column", "says"),
    [
        ("", 1, "Write an expression"),
        ("  # nothing", 1, ""),
        ("42", 1, "Name a metric"),
        ("vector(1)", 1, "Name a metric"),
        ('"text"', 1, "Name a metric"),
        ("up", 1, "no metric"),
        ("sum(ALERTS)", 5, "no metric"),
        (f"sum({R}) + sum(up)", len(f"sum({R}) + sum(") + 1, "no metric"),
        ("sum(ark_api_proxy_requests_total)", 5, "Did you mean ark_api_proxy_request_total?"),
        ("sum(ark_api_proxy_request_duration_seconds)", 5, "_bucket"),
        ('sum({__name__=~".+"})', 6, "before the braces"),
        ('sum({__name__="ark_api_proxy_request_total"})', 6, "before the braces"),
        ('sum({"ark_api_proxy_request_total"})', 5, "before the braces"),
        ('sum({code="x"})', 5, "before the braces"),
        (f'sum({R}{{project="q"}})', len(f"sum({R}{{") + 1, "set for you"),
        (f'sum({R}{{project=~".*"}})', len(f"sum({R}{{") + 1, "set for you"),
        (f'sum({R}{{project!="p"}})', len(f"sum({R}{{") + 1, "set for you"),
        (f'sum({R}{{ark_endpoint="ep-2"}})', len(f"sum({R}{{") + 1, "set for you"),
        (f'sum({R}{{project="p",project="q"}})', len(f"sum({R}{{") + 1, "set for you"),
        (f'sum({R}{{code="x" or project="q"}})', len(f'sum({R}{{code="x" ') + 1, "“or”"),
        (f"sum({R} @ 0)", len(f"sum({R} ") + 1, "“@”"),
        (f"sum(rate({R}[5m] @ end()))", len(f"sum(rate({R}[5m] ") + 1, "“@”"),
        (f"max_over_time(sum({R})[5m:1m] @ start())", len(f"max_over_time(sum({R})[5m:1m] ") + 1, "“@”"),
        (f"sum({R} offset -5m)", len(f"sum({R} ") + 1, "future"),
        (f"sum({R} offset 2d)", len(f"sum({R} offset ") + 1, "one day"),
        (f"sum(rate({R}[25h]))", len(f"sum(rate({R}[") + 1, "one day"),
        (f"max_over_time(sum({R})[2d:1m])", len(f"max_over_time(sum({R})[") + 1, "one day"),
        (f"max_over_time(sum({R})[1d:1s])", len(f"max_over_time(sum({R})") + 1, "10 seconds"),
        (f"max_over_time(max_over_time(sum({R})[1h:1m])[1h:1m])", None, "inside another"),
        (f'sum(label_replace({R}, "project", "q", "", ""))', 5, "cannot be set"),
        (f'sum(label_replace({R}, "ark_endpoint", "ep-2", "", ""))', 5, "cannot be set"),
        (f'sum(label_join({R}, "__name__", ",", "code"))', 5, "cannot be set"),
        (f'count_values("rule_id", {R})', 1, "cannot be set"),
        (f"sum(a{{}} / on (code) group_left (project) {R})", None, "no metric"),
        (f"sum({R} / on (code) group_left (project) {T})", None, "cannot be set"),
        (f"info(sum({R}))", 1, "cannot be used"),
        (f"limitk(2, {R})", 1, "cannot be used"),
        (R, 1, "each gateway worker"),
        (f"rate({R}[5m])", 1, "each gateway worker"),
        (f"topk(3, {R})", 1, "each gateway worker"),
        (f"sum by (instance) ({R})", 1, "each gateway worker"),
        (f"sum without (code) ({R})", 1, "each gateway worker"),
        (f"sum({R}) or {T}", 1, "each gateway worker"),
        (f"sum({R}", 4, "no partner"),
        (f"sum({R}))", len(f"sum({R})") + 1, "no partner"),
        (f"sum(rate({R}))", None, "expected type"),
        (f"{R}[5m]", 1, ""),
        (f"scalar(sum({R}))", 1, "nothing to compare"),
        (f"sum({R}) +", len(f"sum({R}) +") + 1, "not PromQL"),
        (f"sum({R}\x00)", len(f"sum({R}") + 1, "character"),
        (f"sum({R}\ud800)", len(f"sum({R}") + 1, "character"),
        ("(" * 60 + R + ")" * 60, 1, "too deeply"),
        ("+".join([f"sum({T})"] * 30), 1, "At most 20"),
        ("x" * 5000, 1, "4000"),
        ("-" * 2000 + T, 1, "too"),
        ("-" * 200 + T, 1, "too"),
        ("1 + " * 200 + T, 1, "too"),
    ],
)
def test_what_cannot_be_judged_is_refused_where_it_stands(typed: str, column: int | None, says: str) -> None:
    with pytest.raises(Invalid) as caught:
        confine(typed, project="p", endpoint="ep-1")
    assert says in caught.value.message
    assert caught.value.line == 1
    if column is not None:
        assert caught.value.column == column


def test_an_error_names_its_line() -> None:
    with pytest.raises(Invalid) as caught:
        confine(f"sum({R})\n  # and\n  + sum(up)", project="p")
    assert (caught.value.line, caught.value.column) == (3, 9)


def test_a_rule_of_the_whole_project_may_choose_among_its_endpoints() -> None:
    made = confine(f'sum {BY} ({R}{{ark_endpoint=~"ep-1|ep-2"}})', project="p")
    assert ordered(made).endswith(f'{R}{{ark_endpoint=~"ep-1|ep-2",project="p"}})')


@pytest.mark.parametrize("project", ['p"} or up{x="', "p\\", "p\n", "p`", "p{{", "项目"])
def test_a_strange_project_does_not_open_the_quotes(project: str) -> None:
    made = confine(f"sum({R})", project=project)
    with pytest.raises(Invalid):
        confine(made, project="another")
    # Confined again to the same project it is the same: the value came through whole.
    assert confine(made, project=project) == made


@pytest.mark.parametrize("project", ["p", 'p"} or up{x="', "p\\", "some-endpoint-9c52", "项目\n"])
def test_an_expression_of_ours_is_confined_quickly_and_just_the_same(project: str) -> None:
    for item in CURRENT.items:
        slow = promql.confine(item.expression, project=project, endpoint="ep-1")
        assert ordered(promql.confine_ours(item.expression, project=project, endpoint="ep-1")) == ordered(slow)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.sampled_from([*'(){}[]",=~!@ \n\\`5mh', R, T, "sum(", "rate(", "project", "or", "offset", "+"]), max_size=20
    ).map("".join)
)
def test_whatever_is_typed_is_confined_or_refused(typed: str) -> None:
    try:
        made = confine(typed, project="p", endpoint="ep-1")
    except Invalid:
        return
    assert all("project" in part for part in re.split(rf"(?:{R}|{T})\{{", made)[1:])
    assert confine(made, project="p", endpoint="ep-1") == made


# --- the form ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_can_be_summed_up_in_each_way_that_the_form_offers(name: str) -> None:
    metric = METRICS[name]
    for aggregation in metric.aggregations:
        form = MetricForm(
            name, aggregation, 600, tuple((label, "!=", 'a"b') for label in metric.labels), tuple(metric.labels)
        )
        assert 'project="p"' in confine(of_form(form), project="p", endpoint="ep-1")
        assert MetricForm.from_json(form.to_json()) == form


def test_a_form_becomes_the_promql_that_one_would_write() -> None:
    form = MetricForm(R, "per_minute", 300, (("code", "!=", "Success"),))
    assert of_form(form) == f'60 * sum {BY} (rate({R}{{code!="Success"}}[300s]))'
    slow = MetricForm("ark_api_proxy_request_duration_seconds", "p95", 600, (), ("ark_model",))
    assert of_form(slow) == (
        "histogram_quantile(0.95, sum by (project, ark_endpoint, ark_model, le) "
        "(rate(ark_api_proxy_request_duration_seconds_bucket{}[600s])))"
    )


@pytest.mark.parametrize(
    ("form", "field"),
    [
        (MetricForm("up", "max"), "metric"),
        (MetricForm(R, "p95"), "aggregation"),
        (MetricForm(R, "increase", 30), "window_seconds"),
        (MetricForm(R, "increase", 300, (("project", "=", "q"),)), "filters"),
        (MetricForm(R, "increase", 300, (('code="x"} or up{x', "=", "q"),)), "filters"),
        (MetricForm(R, "increase", 300, (("code", "==", "q"),)), "filters"),
        (MetricForm(R, "increase", 300, (), ("le",)), "by"),
    ],
)
def test_a_form_that_was_tampered_with_is_refused(form: MetricForm, field: str) -> None:
    with pytest.raises(DomainError) as caught:
        of_form(form)
    assert caught.value.field == field


@pytest.mark.django_db
def test_every_metric_is_one_that_we_export_with_a_project() -> None:
    builders.endpoint()
    console = {line.split("{")[0] for line in exposition.render(now=NOW).decode().splitlines() if "project=" in line}
    gateway = {name for name, *_ in FAMILIES}
    assert set(METRICS) == console | gateway


def test_the_editor_is_offered_what_may_be_used() -> None:
    offered = completion()
    assert {metric["name"] for metric in offered["metrics"]} == set(SERIES)
    assert set(offered["functions"]) <= promql.ALLOWED_FUNCTIONS
