"""What a Prometheus has to be told to read our metrics. Pure; `manage.py prepare` writes it, pages show it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from urllib.parse import urlsplit

TARGETS_PATH = "/monitoring/targets"
JOB = "ark-gateway"

HOOK_PREFIX = "/hooks/prom"
"""Below it the console takes alerts as an Alertmanager does."""
GRAPH_PREFIX = "/alerts/prometheus"
RULE_FILES = "*.json"

# A target that is over one of these loses its whole scrape: they are for accidents, far above what our own caps allow.
SAMPLE_LIMIT = 250_000
LABEL_LIMIT = 30
LABEL_VALUE_LENGTH_LIMIT = 512

RETENTION_DAYS = 15
MAX_SIZE = "20GB"
"""What its blocks may take on disk; beyond it the oldest go, whatever their age."""


def scrape_job(
    *, console_url: str, scrape_seconds: int, token: str = "", token_file: str = "", is_ours: bool = False
) -> str:
    """The entry for `scrape_configs`, as YAML; the bearer token in the file itself, or the name of a file that holds it.

    To be pasted into anybody's it has only what Prometheus (2.28), its agents and VictoriaMetrics have in common, but
    for one line with a comment; our own (`is_ours`) also gets limits on labels.

    There is one job: the console says what is to be read, its own metrics among it, and says "nothing" until monitoring
    has been opened for a project.
    """
    if bool(token) == bool(token_file):
        raise ValueError("either a token or the file that holds it")
    credentials = f"credentials: {_quoted(token)}" if token else f"credentials_file: {_quoted(token_file)}"
    label_limits = (
        f"  label_limit: {LABEL_LIMIT}\n  label_value_length_limit: {LABEL_VALUE_LENGTH_LIMIT}\n" if is_ours else ""
    )
    comment = "" if is_ours else "  # VictoriaMetrics: leave this line out"
    return f"""\
- job_name: {JOB}
  scrape_interval: {scrape_seconds}s
  scrape_timeout: {min(10, scrape_seconds)}s
  sample_limit: {SAMPLE_LIMIT}
{label_limits}  authorization:
    type: Bearer
    {credentials}
  http_sd_configs:
    - url: {_quoted(console_url.rstrip("/") + TARGETS_PATH)}
      refresh_interval: {min(5, scrape_seconds)}s{comment}
      authorization:
        type: Bearer  # here it is no default: Prometheus 2.42 would send the bare token
        {credentials}
"""


@dataclass(frozen=True, slots=True)
class Alerting:
    """What Prometheus needs to know of alerts; `alertmanager_url` is "" where nobody is told."""

    rules_dir: str
    token_file: str
    alertmanager_url: str = ""
    evaluation_seconds: int = 15


def alerting(known: Alerting, *, console_url: str) -> str:
    """The entries `rule_files` and `alerting`, as YAML.

    What fires is posted to Alertmanager, which decides who hears of it, and to the console, which records all of it:
    silenced, inhibited or with nobody to tell.
    """
    targets = _alertmanager(console_url.rstrip("/") + HOOK_PREFIX, known.token_file)
    if known.alertmanager_url:
        targets = _alertmanager(known.alertmanager_url) + targets
    return f"""\
rule_files:
  - {_quoted(f"{known.rules_dir.rstrip('/')}/{RULE_FILES}")}
alerting:
  alertmanagers:
{_indented(targets)}"""


def _alertmanager(url: str, token_file: str = "") -> str:
    parts = urlsplit(url)
    port = "" if parts.port else ":443" if parts.scheme == "https" else ":80"
    prefix = f"  path_prefix: {_quoted(path)}\n" if (path := parts.path.rstrip("/")) else ""
    bearer = f"  authorization: {{type: Bearer, credentials_file: {_quoted(token_file)}}}\n" if token_file else ""
    return f"""\
- api_version: v2
  scheme: {parts.scheme}
{prefix}{bearer}  static_configs:
    - targets: [{_quoted(parts.netloc.rpartition("@")[2] + port)}]
"""


IDLE_YML = """\
# Written by `manage.py prepare` at every start. PROMETHEUS_URL names another Prometheus: this one reads nothing and
# evaluates no rules.
global: {}
"""


def prometheus_yml(*, console_url: str, scrape_seconds: int, token_file: str, alerts: Alerting | None = None) -> str:
    """The whole configuration of the Prometheus that `manage.py up` and `docker-compose.yml` run."""
    told = alerting(alerts, console_url=console_url) if alerts else ""
    evaluation_seconds = alerts.evaluation_seconds if alerts else scrape_seconds
    job = scrape_job(console_url=console_url, scrape_seconds=scrape_seconds, token_file=token_file, is_ours=True)
    return f"""\
# Written by `manage.py prepare` at every start; changes are lost. For settings of your own run a Prometheus of your own
# (PROMETHEUS_URL, docs/deployment.md).
global:
  scrape_interval: {scrape_seconds}s
  scrape_timeout: {min(10, scrape_seconds)}s
  evaluation_interval: {evaluation_seconds}s
{told}scrape_configs:
{_indented(job)}"""


RESEND_SECONDS = 15
"""What fires is posted again so often; four times as long without it, and it has ended."""


def server_flags(
    *,
    config_file: str,
    data_dir: str,
    listen: str,
    console_url: str,
    max_size: str = MAX_SIZE,
    resend_seconds: int = RESEND_SECONDS,
) -> tuple[str, ...]:
    """The command line of that Prometheus, without the program's name. `listen` is `host:port`.

    What fires says where it comes from: a page of the console, since nobody else reaches Prometheus' own.
    """
    return (
        f"--config.file={config_file}",
        f"--storage.tsdb.path={data_dir}",
        f"--storage.tsdb.retention.time={RETENTION_DAYS}d",
        f"--storage.tsdb.retention.size={max_size}",
        f"--web.listen-address={listen}",
        "--web.enable-lifecycle",
        "--query.timeout=20s",
        f"--web.external-url={console_url}{GRAPH_PREFIX}",
        "--web.route-prefix=/",
        f"--rules.alert.resend-delay={resend_seconds}s",
    )


def _quoted(text: str) -> str:
    # JSON's strings are YAML's double-quoted ones.
    return json.dumps(text, ensure_ascii=False)


def _indented(text: str) -> str:
    return "".join(f"  {line}\n" for line in text.splitlines())
