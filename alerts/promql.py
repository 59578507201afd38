"""PromQL that people write, kept inside their project; and PromQL made of a filled-in form. Pure.

Prometheus knows no tenants: an expression reads whatever it names. `confine` therefore parses it, refuses what it cannot
judge, and puts our own matchers on every selector (the algorithm of prom-label-proxy). What the parser's printer makes of
that is parsed again and compared with what was meant, so that a fault in the printer is an error and never a leak.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from difflib import get_close_matches
from typing import Any, Self

import promql_parser as pp
from django.utils.translation import gettext as _

from alerts import metrics
from alerts.metrics import METRICS, SERIES, Aggregation, Kind
from common.errors import DomainError
from monitoring.queries import quoted

MAX_LENGTH = 4_000
MAX_TOKENS = 1_000
"""The parser and its printer need time by the square of what they are given, and have no limit of their own."""
MAX_DEPTH = 40
MAX_OPERATORS = 100
"""Each makes the tree one deeper."""
MAX_SELECTORS = 20
MAX_SPAN = timedelta(days=1)
"""How far a rule may look back, by a range, a subquery or an offset."""
MIN_STEP = timedelta(seconds=10)

OURS = frozenset({"project", "ark_endpoint", "rule_id", "group_id", "level", "notify_policy", "alertname"})
"""Labels of an alert that say whose it is and where it goes; nobody else sets them."""
FREE_LABELS = frozenset({"instance", "job"})
"""Labels that scraping adds: one alert for each worker is nobody's wish."""

ALLOWED_FUNCTIONS = frozenset(metrics.FUNCTIONS) | frozenset(
    {
        "day_of_month", "day_of_week", "day_of_year", "days_in_month", "exp", "hour", "label_join", "ln", "log10",
        "log2", "minute", "month", "present_over_time", "sort", "sort_desc", "stdvar_over_time", "timestamp", "year",
    }
)  # fmt: skip
"""Functions of Prometheus 2.42. Not `info`: it reads series that no selector names."""


class Invalid(DomainError):
    """The expression cannot be used; `line` and `column` (from 1) say where, for the editor."""

    def __init__(self, message: str, *, line: int = 1, column: int = 1) -> None:
        super().__init__(message, field="promql")
        self.line, self.column = line, column


class NotPromql(Invalid):
    """It cannot even be read; promtool may know better where it goes wrong."""


# --- tokens: only to say where something is wrong ----------------------------------------------------------------------

_TOKEN = re.compile(
    r"""
    (?P<blank>\s+|\#[^\n]*)
    | (?P<string>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|`[^`]*`)
    | (?P<word>[A-Za-z_:][A-Za-z0-9_:]*)
    | (?P<number>\.?[0-9][A-Za-z0-9_.]*)
    | (?P<sign>=~|!~|!=|==|<=|>=|.)
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    at: int
    is_inside: bool
    """Between braces: a label or its value."""


def _tokens(text: str) -> list[_Token]:
    found: list[_Token] = []
    braces = 0
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup or ""
        if kind == "blank":
            continue
        if match[0] == "}":
            braces -= 1
        found.append(_Token(kind, match[0], match.start(), braces > 0))
        if match[0] == "{":
            braces += 1
    return found


class _Source:
    """What was typed, and where in it something stands."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = _tokens(text)

    def wrong(self, message: str, *, at: int = 0) -> Invalid:
        line, column = self._place(at)
        return Invalid(message, line=line, column=column)

    def unreadable(self, message: str, *, at: int = 0) -> NotPromql:
        line, column = self._place(at)
        return NotPromql(message, line=line, column=column)

    def _place(self, at: int) -> tuple[int, int]:
        return self.text.count("\n", 0, at) + 1, at - self.text.rfind("\n", 0, at)

    def first(self, *texts: str, is_inside: bool | None = None) -> int:
        """Where the first of these words stands; the beginning when it is nowhere."""
        return self.find(lambda token: token.text in texts and is_inside in (None, token.is_inside))

    def find(self, fits: Callable[[_Token], bool]) -> int:
        return next((token.at for token in self.tokens if fits(token)), 0)

    def unbalanced(self) -> tuple[int, str] | None:
        """The first bracket that has no partner."""
        pairs = {")": "(", "]": "[", "}": "{"}
        opened: list[_Token] = []
        for token in self.tokens:
            if token.kind != "sign":
                continue
            if token.text in pairs.values():
                opened.append(token)
            elif token.text in pairs:
                if not opened or opened[-1].text != pairs[token.text]:
                    return token.at, token.text
                opened.pop()
        return (opened[-1].at, opened[-1].text) if opened else None

    def depth(self) -> int:
        deepest = depth = 0
        for token in self.tokens:
            depth += (token.text in "([{") - (token.text in ")]}") if token.kind == "sign" else 0
            deepest = max(deepest, depth)
        return deepest


# --- the tree ----------------------------------------------------------------------------------------------------------


def _children(node: Any) -> list[Any]:
    """What a node is made of. A kind of node that is not known here cannot be judged: an error."""
    match node:
        case pp.NumberLiteral() | pp.StringLiteral() | pp.VectorSelector():
            return []
        case pp.MatrixSelector():
            return [node.vector_selector]
        case pp.SubqueryExpr() | pp.ParenExpr() | pp.UnaryExpr():
            return [node.expr]
        case pp.AggregateExpr():
            return [node.param, node.expr] if node.param is not None else [node.expr]
        case pp.BinaryExpr():
            return [node.lhs, node.rhs]
        case pp.Call():
            return list(node.args)
    raise Invalid(_("This expression uses something that is not supported here."))


def _walk(node: Any) -> Iterator[Any]:
    yield node
    for child in _children(node):
        yield from _walk(child)


def _parse(text: str, source: _Source) -> Any:
    try:
        return pp.parse(text)
    except ValueError as error:
        raise _syntax(source, str(error)) from None
    except BaseException as error:
        # A panic of the parser is not an `Exception`.
        if type(error).__name__ != "PanicException":
            raise
        raise source.unreadable(_("This is not PromQL.")) from None


def _syntax(source: _Source, said: str) -> NotPromql:
    """The parser does not say where; a bracket without a partner is where most errors are, else the end."""
    if found := source.unbalanced():
        at, bracket = found
        return source.unreadable(_("“%(bracket)s” has no partner.") % {"bracket": bracket}, at=at)
    if odd := next((token for token in source.tokens if token.kind == "sign" and token.text in "\"'`;$&|\\?~"), None):
        return source.unreadable(_("“%(text)s” is not expected here.") % {"text": odd.text}, at=odd.at)
    for token in source.tokens:
        if len(token.text) > 1 and f"'{token.text}'" in said and token.kind == "word":
            return source.unreadable(_("This is not PromQL: %(said)s") % {"said": said}, at=token.at)
    at = len(source.text.rstrip()) if said == "invalid promql query" else 0
    return source.unreadable(_("This is not PromQL: %(said)s") % {"said": said}, at=at)


Matcher = tuple[str, str, str]
_OPS = {"Equal": "=", "NotEqual": "!=", "Re": "=~", "NotRe": "!~"}


@dataclass(frozen=True, slots=True)
class _Selector:
    """One selector as it shall be: name, matchers in order, what it looks back."""

    name: str
    matchers: tuple[Matcher, ...]
    range: timedelta | None
    offset: timedelta | None

    def text(self) -> str:
        """Without its range, which is the node around it."""
        inner = ",".join(f"{label}{op}{quoted(value)}" for label, op, value in self.matchers)
        offset = f" offset {_duration(self.offset)}" if self.offset else ""
        return f"{self.name}{{{inner}}}{offset}"

    @classmethod
    def of(cls, node: Any) -> _Selector:
        inner = node.vector_selector if isinstance(node, pp.MatrixSelector) else node
        return cls(
            name=inner.name or "",
            matchers=tuple(
                (each.name, _OPS[str(each.op).rpartition(".")[2]], each.value) for each in inner.matchers.matchers
            ),
            range=node.range if isinstance(node, pp.MatrixSelector) else None,
            offset=inner.offset or None,
        )


def _duration(span: timedelta) -> str:
    return f"{round(span.total_seconds() * 1000)}ms"


def _selectors(tree: Any) -> list[Any]:
    """Selectors in order, a range and what it is of as one."""
    found: list[Any] = []

    def visit(node: Any) -> None:
        if isinstance(node, pp.VectorSelector | pp.MatrixSelector):
            found.append(node)
        else:
            for child in _children(node):
                visit(child)

    visit(tree)
    return found


# --- confining ---------------------------------------------------------------------------------------------------------


def confine(expression: str, *, project: str, endpoint: str = "") -> str:
    """The expression, reading nothing but `project` and, unless that is "", `endpoint`.

    Raises `Invalid` where it is no PromQL, names anything but our metrics, looks further back than a day, or would raise
    one alert for each worker. What is left for promtool: what Prometheus' own version does not know.
    """
    source = _checked(expression)
    tree = _parse(expression, source)
    forced = {"project": project} | ({"ark_endpoint": endpoint} if endpoint else {})
    meant: list[_Selector] = []
    for node in _selectors(tree):
        _judge_selector(node, source)
        meant.append(_forced(_Selector.of(node), forced, source))
    if not meant:
        raise source.wrong(_("Name a metric: an expression without one never changes."))
    if len(meant) > MAX_SELECTORS:
        raise source.wrong(_("At most %(count)d metrics may be named.") % {"count": MAX_SELECTORS})
    for node in _walk(tree):
        _judge(node, source)
    if _is_per_worker(tree):
        raise source.wrong(
            _(
                "This would raise one alert for each gateway worker. Aggregate it, as in: sum by (project, ark_endpoint) (…)"
            )
        )
    return _rewritten(tree, meant, source)


_OPERATORS = frozenset({*"+-*/%^<>", "==", "!=", "<=", ">=", "and", "or", "unless", "atan2"})
_SOME_PROJECT, _SOME_ENDPOINT = "some-project-f3a1", "some-endpoint-9c52"


def confine_ours(expression: str, *, project: str, endpoint: str) -> str:
    """The same for an expression of a template, a hundred times as fast: thousands of endpoints share a few of them.

    It is confined once, to a project and an endpoint that nobody has, whose names are then replaced.
    """
    parts = _confined_once(expression)
    names = {quoted(_SOME_PROJECT): quoted(project), quoted(_SOME_ENDPOINT): quoted(endpoint)}
    return "".join(names.get(part, part) for part in parts)


@functools.lru_cache(maxsize=256)
def _confined_once(expression: str) -> Sequence[str]:
    """The confined expression, cut at the names that are to be replaced."""
    if _SOME_PROJECT in expression or _SOME_ENDPOINT in expression:
        raise Invalid(_("This expression uses something that is not supported here."))
    confined = confine(expression, project=_SOME_PROJECT, endpoint=_SOME_ENDPOINT)
    parts = re.split(f"({quoted(_SOME_PROJECT)}|{quoted(_SOME_ENDPOINT)})", confined)
    if len(parts) != 4 * len(_selectors(pp.parse(confined))) + 1:
        raise Invalid(_("This expression uses something that is not supported here."))
    return parts


def _checked(expression: str) -> _Source:
    """Limits that are kept before anything looks closer: the parser itself has none."""
    if not expression.strip():
        raise Invalid(_("Write an expression."))
    if len(expression) > MAX_LENGTH:
        raise Invalid(_("An expression has at most %(count)d characters.") % {"count": MAX_LENGTH})
    source = _Source(expression)
    odd = re.search(r"[^\t\n\r -~\xa0-\ud7ff\ue000-\U0010ffff]", expression)
    if odd:
        raise source.wrong(_("This character cannot be used."), at=odd.start())
    operators = sum(token.text in _OPERATORS for token in source.tokens)
    if len(source.tokens) > MAX_TOKENS or source.depth() > MAX_DEPTH or operators > MAX_OPERATORS:
        raise source.wrong(_("This expression is too long or nested too deeply."))
    return source


def _judge_selector(node: Any, source: _Source) -> None:
    inner = node.vector_selector if isinstance(node, pp.MatrixSelector) else node
    if inner.matchers.or_matchers:
        raise source.wrong(
            _("“or” between labels is not PromQL. Use =~ with “|”."), at=source.first("or", is_inside=True)
        )
    named = [each for each in inner.matchers.matchers if each.name == "__name__"]
    if not inner.name or named:
        at = source.first("__name__", '"__name__"') or source.find(
            lambda token: token.text == "{" and not token.is_inside
        )
        raise source.wrong(_("Write the metric's name before the braces; it cannot be chosen by a label."), at=at)
    if inner.name not in SERIES:
        at = source.first(inner.name, is_inside=False)
        near = get_close_matches(inner.name, SERIES, n=1, cutoff=0.6)
        if inner.name in METRICS:
            near = METRICS[inner.name].series
        if near:
            raise source.wrong(
                _("There is no metric %(name)s. Did you mean %(near)s?")
                % {"name": inner.name, "near": ", ".join(near)},
                at=at,
            )
        raise source.wrong(_("There is no metric %(name)s.") % {"name": inner.name}, at=at)
    if inner.at is not None:
        raise source.wrong(_("“@” cannot be used in a rule."), at=source.first("@", is_inside=False))
    _judge_span(inner.offset, source, word="offset")
    if isinstance(node, pp.MatrixSelector):
        _judge_span(node.range, source, word="[")


def _judge_span(span: timedelta | None, source: _Source, *, word: str) -> None:
    if span is None:
        return
    if span < timedelta(0):
        raise source.wrong(_("A rule cannot look into the future."), at=source.first(word, is_inside=False))
    if span > MAX_SPAN:
        raise source.wrong(_("A rule looks back one day at most."), at=_too_long(source, word))


def _too_long(source: _Source, word: str) -> int:
    for token, following in zip(source.tokens, source.tokens[1:], strict=False):
        if token.text == word and not token.is_inside:
            try:
                if pp.parse_duration(following.text) > MAX_SPAN:
                    return following.at
            except ValueError:
                continue
    return source.first(word, is_inside=False)


def _forced(selector: _Selector, forced: Mapping[str, str], source: _Source) -> _Selector:
    """With our matchers at the end; theirs on the same labels only where they say the same."""
    kept = []
    for label, op, value in selector.matchers:
        if label in forced:
            if op != "=" or value != forced[label]:
                raise source.wrong(
                    _("The label %(label)s is set for you: this rule sees %(value)s only.")
                    % {"label": label, "value": forced[label]},
                    at=source.first(label, f'"{label}"', is_inside=True),
                )
            continue
        kept.append((label, op, value))
    made = (*kept, *((label, "=", value) for label, value in forced.items()))
    return _Selector(selector.name, made, selector.range, selector.offset)


def _judge(node: Any, source: _Source) -> None:
    match node:
        case pp.SubqueryExpr():
            if node.at is not None:
                raise source.wrong(_("“@” cannot be used in a rule."), at=source.first("@", is_inside=False))
            _judge_span(node.range, source, word="[")
            _judge_span(node.offset, source, word="offset")
            if node.step is not None and node.step < MIN_STEP:
                raise source.wrong(
                    _("The step of a subquery is 10 seconds at least."), at=source.first("[", is_inside=False)
                )
            if any(isinstance(inner, pp.SubqueryExpr) for inner in _walk(node.expr)):
                raise source.wrong(_("A subquery cannot be inside another one."), at=source.first("[", is_inside=False))
        case pp.Call():
            name = node.func.name
            if name not in ALLOWED_FUNCTIONS:
                raise source.wrong(
                    _("The function %(name)s cannot be used in a rule.") % {"name": name}, at=source.first(name)
                )
            if name in ("label_replace", "label_join"):
                _judge_label(node.args[1], source, name=name)
        case pp.AggregateExpr():
            name = str(node.op)
            if name not in metrics.OPERATORS and name != "stdvar":
                raise source.wrong(
                    _("The function %(name)s cannot be used in a rule.") % {"name": name}, at=source.first(name)
                )
            if name == "count_values":
                _judge_label(node.param, source, name=name)
        case pp.BinaryExpr() if node.modifier is not None:
            for label in node.modifier.group_labels or ():
                if label in OURS:
                    raise source.wrong(
                        _("The label %(label)s cannot be set by an expression.") % {"label": label},
                        at=source.first("group_left", "group_right"),
                    )


def _judge_label(node: Any, source: _Source, *, name: str) -> None:
    """The label that a function writes: a plain text, and none of ours."""
    label = node.val if isinstance(node, pp.StringLiteral) else ""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", label) or label.startswith("__") or label in OURS:
        raise source.wrong(
            _("The label %(label)s cannot be set by an expression.") % {"label": label}, at=source.first(name)
        )


def _is_per_worker(node: Any) -> bool:
    """Whether series of the result may differ by worker: their labels `instance` and `job` were kept all the way."""
    match node:
        case pp.VectorSelector() | pp.MatrixSelector():
            return True
        case pp.SubqueryExpr() | pp.ParenExpr() | pp.UnaryExpr():
            return _is_per_worker(node.expr)
        case pp.AggregateExpr():
            if str(node.op) in ("topk", "bottomk"):
                return _is_per_worker(node.expr)
            if node.modifier is None:
                return False
            labels = set(node.modifier.labels)
            if str(node.modifier.type).endswith("By"):
                return bool(labels & FREE_LABELS)
            return not labels >= FREE_LABELS and _is_per_worker(node.expr)
        case pp.Call():
            if node.func.name in ("absent", "absent_over_time", "scalar", "vector", "time"):
                return False
            return any(_is_per_worker(argument) for argument in node.args)
        case pp.BinaryExpr():
            return _binary_is_per_worker(node)
    return False


def _binary_is_per_worker(node: Any) -> bool:
    left, right = _is_per_worker(node.lhs), _is_per_worker(node.rhs)
    if str(node.op) in ("and", "unless"):
        return left
    if str(node.op) == "or" or node.modifier is None:
        return left or right
    card = str(node.modifier.card)
    if card.endswith("ManyToOne"):
        return left or bool(set(node.modifier.group_labels or ()) & FREE_LABELS)
    if card.endswith("OneToMany"):
        return right or bool(set(node.modifier.group_labels or ()) & FREE_LABELS)
    matching = node.modifier.matching
    if matching is not None and str(matching.type).endswith("Include"):
        return bool(set(matching.labels) & FREE_LABELS)
    return (left or right) and not (matching is not None and set(matching.labels) >= FREE_LABELS)


def _rewritten(tree: Any, meant: Sequence[_Selector], source: _Source) -> str:
    """The tree with the selectors that are meant, as text that was read again.

    The parser's nodes cannot be changed in place, and its `str` does not escape: a fresh node is put for each selector,
    and `prettify` prints.
    """
    left = iter(meant)

    def put(node: Any) -> Any:
        # What a range is of comes as a node of its own, too.
        return pp.parse(next(left).text()) if isinstance(node, pp.VectorSelector) else None

    try:
        # On one line: a line's end inside a text is written \\n, so what is taken out here is layout.
        printed = re.sub(r"\n\s*", " ", pp.transform(tree, put).prettify()).strip()
        again = pp.parse(printed)
        # A text, a number or a range gives nothing to compare with a threshold.
        pp.parse(f"({printed}) > 0")
    except StopIteration:
        raise source.wrong(_("This expression uses something that is not supported here.")) from None
    except ValueError as error:
        raise source.wrong(_("This gives nothing to compare with a threshold: %(said)s") % {"said": error}) from None
    if [_sorted(_Selector.of(node)) for node in _selectors(again)] != [_sorted(each) for each in meant]:
        raise source.wrong(_("This expression uses something that is not supported here."))
    return printed


def _sorted(selector: _Selector) -> _Selector:
    # The printer orders matchers by itself.
    return _Selector(selector.name, tuple(sorted(selector.matchers)), selector.range, selector.offset)


# --- the form ----------------------------------------------------------------------------------------------------------

FILTER_OPS = ("=", "!=", "=~", "!~")
MIN_WINDOW, MAX_WINDOW = 60, 86_400
MAX_FILTERS = 10
MAX_VALUE = 256
_QUANTILES = {Aggregation.P50: "0.5", Aggregation.P90: "0.9", Aggregation.P95: "0.95", Aggregation.P99: "0.99"}


@dataclass(frozen=True, slots=True)
class MetricForm:
    """A rule made without PromQL: a metric, filters on its labels, how to sum it up, over which seconds, apart by which."""

    metric: str
    aggregation: str
    window_seconds: int = 300
    filters: tuple[Matcher, ...] = ()
    by: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As `Rule.form` keeps it."""
        return {
            "metric": self.metric, "aggregation": self.aggregation, "window_seconds": self.window_seconds,
            "filters": [{"label": label, "op": op, "value": value} for label, op, value in self.filters],
            "by": list(self.by),
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The other way; raises `DomainError` for what was never ours."""
        try:
            return cls(
                metric=str(data["metric"]), aggregation=str(data["aggregation"]),
                window_seconds=int(data.get("window_seconds", 300)),
                filters=tuple((str(one["label"]), str(one["op"]), str(one["value"])) for one in data.get("filters", ())),
                by=tuple(str(label) for label in data.get("by", ())),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError):
            raise DomainError(_("Choose a metric."), field="metric") from None


def of_form(form: MetricForm) -> str:
    """The PromQL of a filled-in form, not yet confined. Raises `DomainError` with `field`."""
    metric = METRICS.get(form.metric)
    if metric is None:
        raise DomainError(_("Choose a metric."), field="metric")
    if form.aggregation not in metric.aggregations:
        raise DomainError(_("Choose how the metric is summed up."), field="aggregation")
    if not MIN_WINDOW <= form.window_seconds <= MAX_WINDOW:
        raise DomainError(_("The window is between one minute and one day."), field="window_seconds")
    for label in form.by:
        if label not in metric.labels:
            raise DomainError(_("This metric has no label %(label)s.") % {"label": label}, field="by")
    inner = ",".join(_filter(each, metric) for each in _capped(form.filters))
    group = ", ".join(("project", "ark_endpoint", *dict.fromkeys(form.by)))
    span = f"[{form.window_seconds}s]"

    def summed(function: str, suffix: str = "", by: str = group) -> str:
        return f"sum by ({by}) ({function}({metric.name}{suffix}{{{inner}}}{span}))"

    suffix = "_sum" if metric.kind is Kind.SUMMARY else ""
    match form.aggregation:
        case Aggregation.PER_MINUTE:
            return f"60 * {summed('rate', suffix)}"
        case Aggregation.INCREASE:
            return summed("increase", suffix)
        case Aggregation.MEAN:
            return f"{summed('rate', '_sum')} / ({summed('rate', '_count')} > 0)"
        case Aggregation.MAX | Aggregation.MIN | Aggregation.SUM:
            return f"{form.aggregation} by ({group}) ({metric.name}{{{inner}}})"
    buckets = summed("rate", "_bucket", f"{group}, le")
    return f"histogram_quantile({_QUANTILES[Aggregation(form.aggregation)]}, {buckets})"


def _capped(filters: Sequence[Matcher]) -> Sequence[Matcher]:
    if len(filters) > MAX_FILTERS:
        raise DomainError(_("At most %(count)d filters.") % {"count": MAX_FILTERS}, field="filters")
    return filters


def _filter(matcher: Matcher, metric: metrics.Metric) -> str:
    label, op, value = matcher
    if label not in metric.labels:
        raise DomainError(_("This metric has no label %(label)s.") % {"label": label}, field="filters")
    if op not in FILTER_OPS or len(value) > MAX_VALUE:
        raise DomainError(_("This filter cannot be used."), field="filters")
    return f"{label}{op}{quoted(value)}"
