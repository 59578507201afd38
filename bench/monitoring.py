"""How long a page of charts takes: `python -m bench.monitoring`, a part of `make bench`.

A real Prometheus holds 15 days of one busy endpoint, as two gateway workers would have been scraped every 15 seconds; the
ledger holds its hours and minutes. Each group of panels is asked through the console's own views, first cold (nothing
remembered), then again; then the overview of a project of many endpoints. What the browser's way costs is not in it.
"""

from __future__ import annotations

import argparse
import math
import os
import secrets
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import django
import httpx
from cryptography.fernet import Fernet

from bench.run import ROOT, Cannot, free_port
from bench.site import ENDPOINT
from tests import remote_write

if TYPE_CHECKING:
    from django.test import Client

DAYS = 15
SCRAPE_SECONDS = 15
WORKERS = 2
BATCH = 200
WIDTH = 1_200
RANGES = ("1h", "24h", "15d")
GOALS_MS = {"1h": 300.0, "15d": 1_500.0}
ROUNDS = 5
ENDPOINTS = 10_000
"""In the project's overview; each is called in one hour of twelve."""
OVERVIEW_GOAL_MS = 1_000.0
PAGE = ROOT / "docs" / "bench.md"


# --- the figures -----------------------------------------------------------------------------------------------------


def load(count: int) -> array[float]:
    """Calls so far of one worker at each scrape: days and nights, and a little unevenness."""
    total, values = 0.0, array("d")
    for position in range(count):
        day = math.sin(2 * math.pi * position * SCRAPE_SECONDS / 86_400)
        total += 40 * (1.2 + day) * (1 + 0.2 * math.sin(position / 7))
        values.append(float(round(total)))
    return values


def shares() -> Iterator[tuple[str, dict[str, str], float]]:
    """(name, labels, how it grows with the calls) of every series that a worker exports for one endpoint."""
    from gateway.metrics import DURATION_BUCKETS, FIRST_TOKEN_BUCKETS, PER_TOKEN_BUCKETS

    yield "ark_api_proxy_request_total", {"code": "Success", "http_status_code": "200"}, 0.97
    yield "ark_api_proxy_request_total", {"code": "InternalServiceError", "http_status_code": "500"}, 0.01
    yield (
        "ark_api_proxy_request_total",
        {"code": "RateLimitExceeded.EndpointTPMExceeded", "http_status_code": "429"},
        0.02,
    )
    for kind, tokens in (("request", 900.0), ("response", 300.0), ("cached", 400.0), ("reasoning", 120.0)):
        yield f"ark_api_proxy_{kind}_token_count_sum", {"tier": ""}, tokens
        yield f"ark_api_proxy_{kind}_token_count_count", {"tier": ""}, 0.97
    for result, share in (("hit", 0.6), ("miss", 0.37)):
        yield "ark_gateway_cache_requests_total", {"result": result}, share
    duration = "ark_api_proxy_request_duration_seconds"
    per_token = "ark_api_proxy_stream_per_token_duration_seconds"
    for name, label, bounds, mean in (
        (duration, {"stream": "true"}, DURATION_BUCKETS, 8.0),
        (duration, {"stream": "false"}, DURATION_BUCKETS, 5.0),
        (per_token, {"is_first": "true"}, FIRST_TOKEN_BUCKETS, 0.6),
        (per_token, {"is_first": "false"}, PER_TOKEN_BUCKETS, 0.04),
    ):
        for bound in bounds:
            yield f"{name}_bucket", {**label, "le": repr(bound)}, 0.48 * (1 - math.exp(-bound / mean))
        yield f"{name}_bucket", {**label, "le": "+Inf"}, 0.48
        yield f"{name}_count", label, 0.48
        yield f"{name}_sum", label, 0.48 * mean


def fill(url: str, *, end: int) -> int:
    """Write 15 days that end at `end` into Prometheus, in the order of time; how many samples."""
    count = DAYS * 86_400 // SCRAPE_SECONDS
    start = end - (count - 1) * SCRAPE_SECONDS
    calls = load(count)
    base = {
        "project": "default",
        "ark_endpoint": ENDPOINT,
        "api": "chat",
        "base_model": "bench",
        "ark_model": "bench-1",
    }
    columns: list[tuple[bytes, array[float]]] = []
    for name, labels, share in shares():
        values = array("d", [value * share for value in calls])
        for worker in range(WORKERS):
            told = {"__name__": name, "job": "ark-gateway", "instance": f"10.0.0.{worker}:9101", **base, **labels}
            columns.append((remote_write.labels(told), values))
    for name, value in (("ark_endpoint_tpm_limit", 10_000_000.0), ("ark_endpoint_rpm_limit", 10_000.0)):
        told = {"__name__": name, "job": "ark-console", "project": "default", "ark_endpoint": ENDPOINT}
        columns.append((remote_write.labels(told), array("d", [value] * count)))
    told = {"__name__": "ark_gateway_requests_in_flight", "job": "ark-gateway", "instance": "10.0.0.0:9101", **base}
    columns.append((remote_write.labels(told), array("d", [float(position % 23) for position in range(count)])))
    with httpx.Client(trust_env=False, timeout=30) as client:
        for first in range(0, count, BATCH):
            times = [1000 * (start + position * SCRAPE_SECONDS) for position in range(first, min(first + BATCH, count))]
            series = (labels + _samples(times, values[first : first + BATCH]) for labels, values in columns)
            answer = client.post(
                f"{url}/api/v1/write", content=remote_write.request(series), headers=remote_write.HEADERS
            )
            if not answer.is_success:
                raise Cannot(f"Prometheus did not take the figures: {answer.text[:200]}")
    return len(columns) * count


def _samples(times: list[int], values: array[float]) -> bytes:
    """Remote write's `samples`, 18 bytes each, laid column by column: 12 million of them one by one take minutes."""
    record = bytearray(b"\x12\x10\x09" + bytes(8) + b"\x10" + bytes(6)) * len(times)
    figures = values.tobytes()
    for place in range(8):
        record[3 + place :: 18] = figures[place::8]
    moments = b"".join(remote_write.varint(at) for at in times)
    for place in range(6):
        record[12 + place :: 18] = moments[place::6]
    return bytes(record)


# --- Prometheus and the console --------------------------------------------------------------------------------------


def start_prometheus(folder: Path) -> tuple[subprocess.Popen[bytes], str]:
    from arkconsole import prometheus_server
    from monitoring import config

    kept = ROOT / ".venv" / "prometheus"
    try:
        binary = prometheus_server.find("", kept)
        if binary is None:
            kept.mkdir(exist_ok=True)
            binary = prometheus_server.get(kept)
    except prometheus_server.CannotGet as error:
        raise Cannot(f"Prometheus is needed: {error}") from None
    (folder / "prometheus.yml").write_text("{}\n")
    port = free_port()
    flags = config.server_flags(
        config_file=str(folder / "prometheus.yml"),
        data_dir=str(folder / "data"),
        listen=f"127.0.0.1:{port}",
        console_url="http://127.0.0.1:1",
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([str(binary), *flags, "--web.enable-remote-write-receiver"], stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/-/ready", trust_env=False, timeout=2).is_success:
                return process, url
        except httpx.HTTPError:
            time.sleep(0.1)
    process.kill()
    raise Cannot("Prometheus did not start.")


def console(folder: Path, url: str, *, end: int) -> Client:
    """The console on a database of its own, with the endpoint, its ledger, and an administrator signed in."""
    from django.conf import settings
    from django.test import Client

    from bench import site
    from catalog.models import ModelVersion, PriceTier
    from iam.models import Project, User
    from metering.models import UsageHour, UsageMinute
    from monitoring import installation
    from monitoring.models import Subscription

    site.seed("http://127.0.0.1:1/v1", secrets.token_hex(8))
    note = Path(settings.DATA_DIR) / installation.NOTE
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(installation.note(installation.Installation(installation.Presence.ON, url=url)))
    now = datetime.fromtimestamp(end, UTC)
    version = ModelVersion.objects.get()
    price = PriceTier.objects.create(
        version=version, input_price=1, cached_price="0.2", output_price=4, valid_from=now - timedelta(days=90)
    )
    Subscription.objects.create(
        project=Project.objects.get(pk="default"), state=Subscription.State.OPEN, step=Subscription.Step.SAMPLES,
        asked_at=now, step_at=now, look_at=now, opened_at=now - timedelta(days=90),
    )  # fmt: skip

    def usage(at: datetime, calls: int) -> dict[str, object]:
        return {
            "at": at, "project_id": "default", "endpoint_id": ENDPOINT, "version_id": version.pk, "api": "chat",
            "key_id": 1, "price_id": price.pk, "calls": calls, "succeeded": calls, "input_tokens": 900 * calls,
            "output_tokens": 300 * calls, "cached_tokens": 400 * calls, "reasoning_tokens": 120 * calls,
        }  # fmt: skip

    hour = now.replace(minute=0, second=0, microsecond=0)
    hours = [UsageHour(**usage(hour - timedelta(hours=back), 9_600)) for back in range(2 * DAYS * 24)]
    minute = now.replace(second=0, microsecond=0)
    minutes = [UsageMinute(**usage(minute - timedelta(minutes=back), 160)) for back in range(2 * DAYS * 1_440)]
    UsageHour.objects.bulk_create(hours)
    UsageMinute.objects.bulk_create(minutes, batch_size=500)
    client = Client(headers={"host": "127.0.0.1"})
    client.force_login(User.objects.create_superuser("bench", password=None))
    return client


def ask(client: Client, group: str, chosen: str) -> float:
    """Milliseconds for one group through the console's views."""
    began = time.perf_counter()
    answer = client.get(f"/endpoints/{ENDPOINT}/monitoring/groups/{group}?range={chosen}&width={WIDTH}")
    took = 1000 * (time.perf_counter() - began)
    told = answer.json()
    if answer.status_code != 200 or told["state"] != "ok":
        raise Cannot(f"{group} over {chosen}: {answer.status_code} {told.get('message')}")
    empty = [name for name, panel in told["panels"].items() if panel["empty"]]
    if empty:
        raise Cannot(f"{group} over {chosen}: nothing in {', '.join(empty)}")
    return took


def fill_overview() -> int:
    """Give the ledger's hours to many more endpoints; how many rows there are then."""
    from django.db import connection

    from metering.models import UsageHour

    table = UsageHour._meta.db_table
    rest = [field.column for field in UsageHour._meta.concrete_fields if field.column not in ("id", "endpoint_id")]
    columns = ", ".join(rest)
    with connection.cursor() as cursor:
        cursor.execute(
            f"WITH RECURSIVE many(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM many WHERE n < {ENDPOINTS}) "
            f"INSERT INTO {table} (endpoint_id, {columns}) SELECT 'ep-bench-' || n, {columns} FROM {table}, many "
            f"WHERE ({table}.id + n) % 12 = 0"
        )
    return UsageHour.objects.count()


def overview(client: Client) -> tuple[float, float]:
    """Milliseconds for the page of 15 days: summed up, and with what is known."""
    from monitoring import overview_views

    overview_views.memo = overview_views.Memo()
    took = []
    for _time in range(2):
        began = time.perf_counter()
        answer = client.get("/monitoring/?range=15d")
        took.append(1000 * (time.perf_counter() - began))
        if answer.status_code != 200:
            raise Cannot(f"The overview: {answer.status_code}")
    return took[0], took[1]


def measure() -> list[str]:
    with tempfile.TemporaryDirectory(prefix="ark-bench-") as name:
        folder = Path(name)
        os.environ |= {
            "DATA_DIR": str(folder / "var"), "DATABASE_URL": f"sqlite:///{folder / 'bench.sqlite3'}",
            "SECRET_KEY": secrets.token_hex(32), "FIELD_ENCRYPTION_KEY": Fernet.generate_key().decode(),
            "SCRAPE_SECONDS": str(SCRAPE_SECONDS), "DJANGO_SETTINGS_MODULE": "arkconsole.settings",
        }  # fmt: skip
        os.environ.pop("PROMETHEUS_URL", None)
        (folder / "var").mkdir()
        django.setup()
        process, url = start_prometheus(folder)
        try:
            return _measured(folder, process, url)
        finally:
            process.terminate()
            process.wait()


def _measured(folder: Path, process: subprocess.Popen[bytes], url: str) -> list[str]:
    from monitoring import overview_views, panels, prometheus

    end = int(time.time()) // SCRAPE_SECONDS * SCRAPE_SECONDS
    began = time.perf_counter()
    samples = fill(url, end=end)
    filled = time.perf_counter() - began
    client = console(folder, url, end=end)
    groups = [group.id for group in panels.groups_for("thinking")]
    count = sum(1 for _panel in panels.panels(panels.groups_for("thinking")))
    lines = [
        "| range | " + " | ".join(groups) + " | all, cold | all, again |",
        "|---|" + "---|" * (len(groups) + 2),
    ]
    totals: dict[str, float] = {}
    ask(client, groups[0], "1h")  # imports, connections
    for chosen in RANGES:
        best = dict.fromkeys(groups, math.inf)
        again = math.inf
        for _round in range(ROUNDS):
            prometheus.forget()
            for group in groups:
                best[group] = min(best[group], ask(client, group, chosen))
            again = min(again, sum(ask(client, group, chosen) for group in groups))
        totals[chosen] = sum(best.values())
        lines.append(
            f"| {chosen} | " + " | ".join(f"{best[group]:.0f} ms" for group in groups)
            + f" | {totals[chosen]:.0f} ms | {again:.0f} ms |"
        )  # fmt: skip
    goals = ", ".join(
        f"{chosen} in at most {goal:g} ms: {'met' if totals[chosen] <= goal else '**missed**'}"
        for chosen, goal in GOALS_MS.items()
    )
    rows = fill_overview()
    anew, known = overview(client)
    return [
        *lines,
        "",
        (
            f"{count} panels, {samples:,} samples of 15 days (written in {filled:.0f} s), charts {WIDTH} px wide; "
            f"best of {ROUNDS}, one group after the other. Goals for all panels, cold: {goals}."
        ),
        "",
        (
            f"The overview of {ENDPOINTS:,} endpoints over 15 days ({rows:,} rows of hours): {anew:.0f} ms when it is summed up, "
            f"{known:.0f} ms within {overview_views.KEEP.seconds} s after. "
            f"Goal for the latter: {OVERVIEW_GOAL_MS:g} ms, {'met' if known <= OVERVIEW_GOAL_MS else '**missed**'}."
        ),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the result into docs/bench.md")
    options = parser.parse_args()
    try:
        lines = [f"Measured {datetime.now(UTC):%Y-%m-%d %H:%M} UTC.", "", *measure()]
    except Cannot as error:
        print(error, file=sys.stderr)
        return 1
    result = "\n".join(lines)
    print(result)
    if options.write:
        head, _sep, rest = PAGE.read_text().partition("<!-- charts -->")
        _old, _sep, tail = rest.partition("<!-- end of charts -->")
        PAGE.write_text(f"{head}<!-- charts -->\n{result}\n<!-- end of charts -->{tail}")
    return 1 if "**missed**" in result else 0


if __name__ == "__main__":
    sys.exit(main())
