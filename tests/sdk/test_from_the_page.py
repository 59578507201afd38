"""What the page "API call" of an endpoint offers, against the running product: its samples as they stand, its try-it box."""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator

import httpx
import pytest

from endpoints.samples import samples
from tests.sdk.conftest import Target
from tests.stack import Stack

DOMAINS = {"chat": "chat", "thinking": "thinking", "embedding": "embedding"}


def code_of(target: Target, name: str, key: str) -> str:
    """The sample of an endpoint as its page shows it."""
    found = samples(model=target[name], domain=DOMAINS[name], base_url=target.base_url)
    return next(each.code for each in found if each.key == key)


def run(command: list[str], target: Target, *, text: str = "") -> str:
    """What a person's shell prints, which knows nothing but the key."""
    done = subprocess.run(
        command,
        env={"ARK_API_KEY": target.api_key, "PATH": "/usr/bin:/bin"},
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# Runs program after program, each as the only one there is; prints as JSON what each has printed.
RUN_EACH = """
import contextlib, io, json, sys
printed = []
for code in json.load(sys.stdin):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(code, "sample", "exec"), {"__name__": "__main__"})
    printed.append(out.getvalue())
print(json.dumps(printed))
"""


@pytest.fixture(scope="module")
def printed(target: Target) -> Callable[[str], dict[str, str]]:
    """What the Python samples of a package print, by endpoint; one interpreter for all of them: importing it takes long."""

    @functools.cache
    def of(key: str) -> dict[str, str]:
        codes = json.dumps([code_of(target, name, key) for name in DOMAINS])
        found = json.loads(run([sys.executable, "-W", "ignore", "-c", RUN_EACH], target, text=codes))
        return dict(zip(DOMAINS, found, strict=True))

    return of


@pytest.mark.parametrize("name", ["chat", "thinking"])
@pytest.mark.parametrize("key", ["openai", "ark"])
def test_a_python_sample_prints_the_answer(printed: Callable[[str], dict[str, str]], name: str, key: str) -> None:
    found = printed(key)[name].strip()
    assert found
    assert (len(found.splitlines()) > 1) == (name == "thinking")


@pytest.mark.parametrize("key", ["openai", "ark"])
def test_a_python_sample_prints_the_length_of_the_vector_and_the_tokens(
    printed: Callable[[str], dict[str, str]], key: str
) -> None:
    length, tokens = printed(key)["embedding"].split()
    assert int(length) > 0
    assert int(tokens) > 0


@pytest.mark.parametrize("name", list(DOMAINS))
def test_the_curl_sample_prints_the_answer_of_the_gateway(target: Target, name: str) -> None:
    answer = json.loads(run(["sh", "-ec", code_of(target, name, "curl")], target))
    assert answer["model"] == target.version(name)
    assert answer["usage"]["total_tokens"] > 0


@pytest.fixture(scope="module")
def console(stack: Stack) -> Iterator[httpx.Client]:
    """A browser without JavaScript, signed in as the administrator."""
    with httpx.Client(base_url=stack.console_url, follow_redirects=True, trust_env=False, timeout=30) as client:
        page = client.get("/accounts/login/").raise_for_status().text
        form = {"csrfmiddlewaretoken": token(page), "login": "admin", "password": stack.admin_password}
        client.post("/accounts/login/", data=form, headers={"Referer": stack.console_url}).raise_for_status()
        yield client


def token(page: str) -> str:
    found = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)
    assert found, page
    return found[1]


def try_it(console: httpx.Client, endpoint_id: str, *, accept: str) -> httpx.Response:
    page = console.get(f"/endpoints/{endpoint_id}/api").raise_for_status().text
    return console.post(
        f"/endpoints/{endpoint_id}/try",
        data={"csrfmiddlewaretoken": token(page), "prompt": "Say hello"},
        headers={"Accept": accept, "Referer": str(console.base_url)},
    )


def test_the_box_streams_an_answer_with_its_tokens(console: httpx.Client, target: Target) -> None:
    response = try_it(console, target["chat"], accept="text/event-stream")
    assert response.status_code == 200
    assert response.headers["Content-Type"].startswith("text/event-stream")
    events = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"])
    assert chunks[-1]["usage"]["completion_tokens"] > 0
    assert chunks[0]["model"] == target.version("chat")


def test_without_javascript_the_page_comes_back_with_the_answer(console: httpx.Client, target: Target) -> None:
    response = try_it(console, target["thinking"], accept="text/html")
    assert response.status_code == 200
    assert 'data-state="done"' in response.text


def test_a_stopped_endpoint_says_that_it_takes_no_calls(console: httpx.Client, target: Target) -> None:
    response = try_it(console, target["stopped"], accept="text/event-stream")
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "InvalidEndpoint.ClosedEndpoint"
