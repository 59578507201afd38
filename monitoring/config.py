"""What a Prometheus has to be told to read our metrics. Pure; `manage.py prepare` writes it, pages show it."""

from __future__ import annotations

import json

TARGETS_PATH = "/monitoring/targets"
JOB = "ark-gateway"

# A target that is over one of these loses its whole scrape: they are for accidents, far above what our own caps allow.
SAMPLE_LIMIT = 250_000
LABEL_LIMIT = 30
LABEL_VALUE_LENGTH_LIMIT = 512

RETENTION_DAYS = 15


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


def prometheus_yml(*, console_url: str, scrape_seconds: int, token_file: str) -> str:
    """The whole configuration of the Prometheus that `manage.py up` and `docker-compose.yml` run."""
    job = scrape_job(console_url=console_url, scrape_seconds=scrape_seconds, token_file=token_file, is_ours=True)
    return f"""\
# Written by `manage.py prepare` at every start; changes are lost. For settings of your own run a Prometheus of your own
# (PROMETHEUS_URL, docs/deployment.md).
global:
  scrape_interval: {scrape_seconds}s
  scrape_timeout: {min(10, scrape_seconds)}s
  evaluation_interval: {scrape_seconds}s
scrape_configs:
{_indented(job)}"""


def server_flags(*, config_file: str, data_dir: str, listen: str) -> tuple[str, ...]:
    """The command line of that Prometheus, without the program's name. `listen` is `host:port`."""
    return (
        f"--config.file={config_file}",
        f"--storage.tsdb.path={data_dir}",
        f"--storage.tsdb.retention.time={RETENTION_DAYS}d",
        f"--web.listen-address={listen}",
        "--web.enable-lifecycle",
        "--query.timeout=20s",
    )


def _quoted(text: str) -> str:
    # JSON's strings are YAML's double-quoted ones.
    return json.dumps(text, ensure_ascii=False)


def _indented(text: str) -> str:
    return "".join(f"  {line}\n" for line in text.splitlines())
