"""From the first failing call to the message in somebody's hands: `python -m bench.alerts`, a part of `make bench`.

The whole product runs as `make run` starts it, with a real Prometheus and a real Alertmanager, all of them told to read
and evaluate every two seconds. Endpoint after endpoint its model begins to fail; the clock runs from the answer of the
first failed call until a webhook has the message about this very endpoint. Then Alertmanager's hook is timed alone.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import httpx

from bench.run import ROOT, Cannot
from tests.alerts import fakes
from tests.sdk.arrange import Made, Order, Wanted, arrange
from tests.servers import alertmanager_binary, prometheus_binary
from tests.stack import Stack
from tests.system.alerting import Address, AlertOrder, MadeAlert, arrange_alerts

PAGE = ROOT / "docs" / "bench.md"
ROUNDS = 6
SECONDS = 2
GOAL_SECONDS = 5.0
GROUPS = (1, 100, 500)
HOOK_ROUNDS = 9
PATIENCE_SECONDS = 60
MODEL = "demo-fast"
SECRET = "a secret of the webhook"
FAILED = (
    f'sum by (project, ark_endpoint) (increase(ark_api_proxy_request_total{{http_status_code=~"5.."}}[{4 * SECONDS}s]))'
)


def measure() -> str:
    """What is printed. Raises `Cannot`."""
    if prometheus_binary() is None or alertmanager_binary() is None:
        raise Cannot("Prometheus and Alertmanager are needed.")
    env = {
        "SCRAPE_SECONDS": str(SECONDS),
        "EVALUATION_SECONDS": str(SECONDS),
        "ALERT_ALLOW_HTTP": "1",
        "ALERT_ALLOW_PRIVATE_ADDRESSES": "1",
    }
    with (
        tempfile.TemporaryDirectory(prefix="ark-bench-") as folder,
        fakes.running(fakes.Webhook(secret=SECRET)) as hook,
    ):
        stack = Stack(Path(folder) / "data", env)
        stack.start()
        try:
            delays, made = _delays(stack, hook)
            answers = {count: _hook_seconds(stack, made, count) for count in GROUPS}
        finally:
            stack.stop()
    return _text(delays, answers)


def _text(delays: list[float], answers: dict[int, float]) -> str:
    hooks = ", ".join(f"{count}: {1000 * seconds:.0f} ms" for count, seconds in answers.items())
    verdict = "met" if max(delays) < GOAL_SECONDS else "**missed**"
    return (
        f"Measured {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {len(delays)} incidents.\n\n"
        f"From the first failed call to the message: fastest {min(delays):.1f} s, median "
        f"{statistics.median(delays):.1f} s, slowest {max(delays):.1f} s. Goal: under {GOAL_SECONDS:g} s, {verdict}.\n\n"
        f"Answer of the console to Alertmanager, by the alerts in a group (median of {HOOK_ROUNDS}; SQLite): {hooks}."
    )


def _hook_seconds(stack: Stack, made: MadeAlert, count: int) -> float:
    """The median time of an answer to a group of so many new alerts, which Prometheus has told of before."""
    token = (stack.data_dir / "alert-hook-token").read_text().strip()
    shared = {
        "alertname": f"hook {count}", "project": "default", "level": "P0", "notify_policy": str(made.policy),
        "rule_id": str(made.rule), "group_id": str(made.group),
    }  # fmt: skip
    group = {name: shared[name] for name in ("alertname", "project", "level", "notify_policy")}
    took = []
    with httpx.Client(timeout=20, trust_env=False, headers={"Authorization": f"Bearer {token}"}) as client:
        for number in range(HOOK_ROUNDS):
            times = {"startsAt": datetime.now(UTC).isoformat(), "endsAt": "2099-01-01T00:00:00Z"}
            alerts = [{"labels": {**shared, "ark_endpoint": f"{number}-{each}"}, **times} for each in range(count)]
            for first in range(0, count, 64):
                url = f"{stack.console_url}/hooks/prom/api/v2/alerts"
                client.post(url, json=alerts[first : first + 64]).raise_for_status()
            post = {"version": "4", "groupLabels": group, "alerts": [{**each, "status": "firing"} for each in alerts]}
            began = time.monotonic()
            client.post(f"{stack.console_url}/hooks/alertmanager", json=post).raise_for_status()
            took.append(time.monotonic() - began)
    return statistics.median(took)


def _delays(stack: Stack, hook: fakes.Webhook) -> tuple[list[float], MadeAlert]:
    names = [f"bench {number}" for number in range(ROUNDS)]
    made = arrange(stack, Order("alerted", f"{stack.demo_url}/v1", [Wanted(name, MODEL) for name in names]))
    to = [Address("webhook", hook.url, SECRET)]
    alerts = arrange_alerts(stack, *(AlertOrder(name, made.endpoints[name], FAILED, to) for name in names))
    with httpx.Client(timeout=20, trust_env=False) as client:
        _wait_watched(stack, client, made)
        return [_delay(stack, client, hook, made, name) for name in names], alerts[0]


def _wait_watched(stack: Stack, client: httpx.Client, made: Made) -> None:
    """Until every rule is evaluated, and every worker's figures of every endpoint have been read once."""
    ids = "|".join(made.endpoints.values())
    started = f'count(ark_api_proxy_request_total{{code="Success",ark_endpoint=~"{ids}"}})'

    def is_watched() -> bool:
        answer = client.get(f"{stack.prometheus_url}/api/v1/query", params={"query": started}).json()
        found = answer["data"]["result"]
        groups = client.get(f"{stack.prometheus_url}/api/v1/rules").json()["data"]["groups"]
        rules = [rule for group in groups for rule in group["rules"] if rule["health"] == "ok"]
        told = client.get(f"{stack.prometheus_url}/api/v1/alertmanagers").json()["data"]["activeAlertmanagers"]
        ours = [rule for rule in rules if any(each in rule["query"] for each in made.endpoints.values())]
        series = int(found[0]["value"][1]) if found else 0
        return len(ours) >= ROUNDS and series >= ROUNDS * 2 and len(told) == 2

    stack.wait_until(is_watched, seconds=120, what="every endpoint is watched")
    # The routes of the last policy: Alertmanager's configuration is compared every ten seconds.
    time.sleep(12)


def _delay(stack: Stack, client: httpx.Client, hook: fakes.Webhook, made: Made, name: str) -> float:
    endpoint_id = made.endpoints[name]
    behaviour = f"{stack.demo_url}/demo/models/{MODEL}"
    client.post(behaviour, json={"error_rate": 1.0}).raise_for_status()
    try:
        call = {"model": endpoint_id, "max_tokens": 3, "messages": [{"role": "user", "content": "hello"}]}
        answer = client.post(
            f"{stack.gateway_url}/api/v3/chat/completions",
            json=call,
            headers={"Authorization": f"Bearer {made.api_key}"},
        )
        began = time.monotonic()
        if answer.status_code < 500:
            raise Cannot(f"The model did not fail: {answer.text[:200]}")
        while not any(endpoint_id.encode() in request.body for request in list(hook.taken)):
            if time.monotonic() - began > PATIENCE_SECONDS:
                raise Cannot(f"Nobody was told within {PATIENCE_SECONDS} s.\n{stack.logs(5)}")
            time.sleep(0.01)
        return time.monotonic() - began
    finally:
        client.post(behaviour, json={"error_rate": 0.0})


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--write", action="store_true", help="put the result into docs/bench.md")
    options = parser.parse_args()
    try:
        result = measure()
    except Cannot as error:
        print(error, file=sys.stderr)
        return 1
    print(result)
    if options.write:
        before, marker, rest = PAGE.read_text(encoding="utf-8").partition("<!-- alerts -->\n")
        _old, end, after = rest.partition("<!-- end of alerts -->")
        PAGE.write_text(f"{before}{marker}{result}\n{end}{after}", encoding="utf-8")
    return 1 if "**missed**" in result else 0


if __name__ == "__main__":
    sys.exit(main())
