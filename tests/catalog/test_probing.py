"""The adapter to model servers: each failure has its sentence, and nothing is sent where it must not go."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from catalog.models import ModelServer, Trouble
from catalog.probing import NO_SUCH_MODEL, Capability, ModelServerClient, ProbeFailed
from common import addresses
from tests.servers import ROOT, free_port, wait_until

Handler = Callable[[httpx.Request], httpx.Response]
LIST = {"object": "list", "data": [{"id": "qwen", "object": "model", "max_model_len": 8192, "owned_by": "vllm"}]}


def client(handler: Handler, *, url: str = "http://models.example:8000/v1", key: str = "") -> ModelServerClient:
    return ModelServerClient(
        base_url=url,
        api_key=key,
        transport=httpx.MockTransport(handler),
        resolver=lambda _host, _port: ["10.0.0.5"],
    )


def answering(status: int, body: Any = "", **headers: str) -> Handler:
    content = body if isinstance(body, (str, bytes)) else json.dumps(body)
    return lambda _request: httpx.Response(status, content=content, headers=headers)


def raising(error: Exception) -> Handler:
    def handler(_request: httpx.Request) -> httpx.Response:
        raise error

    return handler


def test_the_list_is_asked_at_the_vetted_address_with_host_and_key() -> None:
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json=LIST)

    listing = client(handler, key="sk-1").list_models()
    assert [(model.id, model.context_tokens, model.owner) for model in listing.models or ()] == [("qwen", 8192, "vllm")]
    assert str(seen[0].url) == "http://10.0.0.5:8000/v1/models"
    assert seen[0].headers["Host"] == "models.example:8000"
    assert seen[0].headers["Authorization"] == "Bearer sk-1"
    assert seen[0].extensions["sni_hostname"] == "models.example"


@pytest.mark.parametrize(
    ("handler", "trouble"),
    [
        (answering(401, {"error": {"message": "bad key"}}), Trouble.UNAUTHORIZED),
        (answering(403), Trouble.FORBIDDEN),
        (answering(404, "Not Found"), Trouble.NOT_FOUND),
        (answering(429), Trouble.RATE_LIMITED),
        (answering(500), Trouble.SERVER_ERROR),
        (answering(418), Trouble.UNEXPECTED_STATUS),
        (answering(302, location="http://169.254.169.254/"), Trouble.REDIRECTED),
        (answering(200, "<html>hello</html>"), Trouble.NOT_JSON),
        (answering(200, {"hello": "world"}), Trouble.NOT_A_MODEL_LIST),
        (answering(200, b"x" * 9_000_000), Trouble.TOO_LARGE),
        (raising(httpx.ReadTimeout("")), Trouble.TIMEOUT),
        (raising(httpx.ConnectTimeout("")), Trouble.TIMEOUT),
        (raising(httpx.RemoteProtocolError("what?")), Trouble.BROKEN),
        (raising(httpx.ConnectError("no route")), Trouble.UNREACHABLE),
    ],
)
def test_each_failure_has_its_own_trouble(handler: Handler, trouble: Trouble) -> None:
    with pytest.raises(ProbeFailed) as caught:
        client(handler).list_models()
    assert caught.value.trouble == trouble


@pytest.mark.parametrize("trouble", list(Trouble))
def test_each_trouble_is_a_sentence_for_people(trouble: Trouble) -> None:
    assert str(trouble.label).endswith((".", "?"))


def test_a_404_says_that_the_path_is_probably_missing_v1() -> None:
    inspection = client(answering(404)).inspect(kind=ModelServer.ProbeKind.MODELS)
    assert not inspection.is_good
    assert "/v1" in inspection.sentence


def test_a_bare_list_is_a_list_too() -> None:
    assert len(client(answering(200, [{"id": "a"}, {"no": "id"}, "b"])).list_models().models or ()) == 1


def test_nothing_listens_says_refused() -> None:
    with (
        pytest.raises(ProbeFailed) as caught,
        ModelServerClient(base_url=f"http://127.0.0.1:{free_port()}/v1") as server,
    ):
        server.list_models()
    assert caught.value.trouble == Trouble.REFUSED


def test_a_name_that_nobody_knows_says_so() -> None:
    def unknown(_host: str, _port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with pytest.raises(ProbeFailed) as caught:
        ModelServerClient(base_url="http://nowhere.example/v1", resolver=unknown).list_models()
    assert caught.value.trouble == Trouble.NAME_NOT_FOUND


def test_https_to_a_server_that_speaks_plain_http_says_tls() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        script = "import socket,sys; s=socket.socket(fileno=int(sys.argv[1])); c,_=s.accept(); c.sendall(b'HTTP/1.1 400 Bad Request\\r\\n\\r\\n'); c.close()"
        child = subprocess.Popen([sys.executable, "-c", script, str(listener.fileno())], pass_fds=[listener.fileno()])
        try:
            with pytest.raises(ProbeFailed) as caught:
                ModelServerClient(base_url=f"https://127.0.0.1:{port}/v1").list_models()
        finally:
            child.wait(10)
    assert caught.value.trouble == Trouble.TLS


# --- addresses that are never called ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest",
        "http://[fe80::1]/v1",
        "http://[::ffff:169.254.169.254]/v1",
        "http://100.100.100.200/v1",
        "http://0.0.0.0:8000/v1",
    ],
)
@pytest.mark.parametrize("kind", list(ModelServer.ProbeKind))
def test_metadata_and_link_local_addresses_are_never_called(url: str, kind: str) -> None:
    calls: list[httpx.Request] = []
    server = ModelServerClient(
        base_url=url, transport=httpx.MockTransport(lambda r: calls.append(r) or answering(200)(r))
    )
    with pytest.raises(ProbeFailed) as caught:
        server.probe(kind)
    assert caught.value.trouble == Trouble.FORBIDDEN_ADDRESS
    assert calls == []


def test_a_name_that_leads_to_a_metadata_service_is_never_called() -> None:
    def resolver(host: str, port: int) -> list[str]:
        # What `addresses.resolve` does with DNS's answers, the answers being an attacker's.
        return addresses.resolve("169.254.169.254", port) if host == "evil.example" else ["10.0.0.5"]

    calls: list[httpx.Request] = []
    server = ModelServerClient(
        base_url="http://evil.example/v1",
        transport=httpx.MockTransport(lambda r: calls.append(r) or answering(200)(r)),
        resolver=resolver,
    )
    assert server.inspect(kind="models").trouble == Trouble.FORBIDDEN_ADDRESS
    assert server.inspect(kind="tcp").trouble == Trouble.FORBIDDEN_ADDRESS
    assert calls == []


def test_the_name_is_asked_once_per_call_so_that_a_second_answer_cannot_differ() -> None:
    asked: list[str] = []

    def resolver(host: str, _port: int) -> list[str]:
        asked.append(host)
        return ["10.0.0.5"]

    server = ModelServerClient(
        base_url="http://rebind.example/v1", transport=httpx.MockTransport(answering(200, LIST)), resolver=resolver
    )
    server.list_models()
    assert asked == ["rebind.example"]


def test_a_redirect_is_shown_and_not_followed() -> None:
    calls: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        calls.append(str(request.url))
        return httpx.Response(307, headers={"location": "http://169.254.169.254/latest/meta-data"})

    inspection = client(handler).inspect(kind="models")
    assert inspection.trouble == Trouble.REDIRECTED
    assert inspection.detail == "http://169.254.169.254/latest/meta-data"
    assert calls == ["http://10.0.0.5:8000/v1/models"]


def test_the_key_is_cut_out_of_what_the_server_says() -> None:
    inspection = client(answering(401, {"error": {"message": "wrong key sk-secret-9!"}}), key="sk-secret-9").inspect(
        kind="models"
    )
    assert "sk-secret-9" not in inspection.detail
    assert "wrong key" in inspection.detail


def test_a_key_with_a_line_break_is_a_bad_key_and_not_a_crash() -> None:
    assert client(answering(200, LIST), key="sk-1\nX-Evil: 1").inspect(kind="models").trouble == Trouble.UNAUTHORIZED


# --- what the server can do ------------------------------------------------------------------------------------------


NOT_FOUND = answering(404)


def server_that(*, chat: Handler, embeddings: Handler = NOT_FOUND) -> ModelServerClient:
    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/models"):
            return httpx.Response(200, json=LIST)
        return chat(request) if request.url.path.endswith("/chat/completions") else embeddings(request)

    return client(handler)


@pytest.mark.parametrize(
    ("chat", "expected"),
    [
        # vLLM, Ollama, our demo server: they read the request before they look for the model
        (answering(400, {"message": "stream_options: Input should be a valid dictionary"}), Capability.YES),
        (answering(400, {"error": "cannot unmarshal string into Go struct field .stream_options"}), Capability.YES),
        (answering(422, {"detail": "stream_options: Extra inputs are not permitted"}), Capability.NO),
        (answering(404, {"error": {"message": "The model does not exist"}}), Capability.UNKNOWN),
        (answering(200, "data: [DONE]"), Capability.UNKNOWN),
        (raising(httpx.ReadTimeout("")), Capability.UNKNOWN),
    ],
)
def test_stream_options_are_found_out_from_what_the_server_complains_about(chat: Handler, expected: Capability) -> None:
    assert server_that(chat=chat).inspect(kind="models").stream_options == expected


def test_what_is_asked_free_of_charge_is_refused_before_anything_is_computed() -> None:
    asked: list[tuple[str, int]] = []

    def noting(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        asked.append((body["model"], len(body["messages"])))
        return httpx.Response(400, text="no")

    server_that(chat=noting).inspect(kind="models")
    assert asked == [(NO_SUCH_MODEL, 1), ("qwen", 0)]


@pytest.mark.parametrize(
    ("chat", "expected"),
    [
        (answering(200, 'data: {"choices":[]}\n\ndata: {"choices":[],"usage":{"total_tokens":3}}\n\ndata: [DONE]\n'), Capability.YES),
        (answering(200, 'data: {"choices":[],"usage":null}\n\ndata: [DONE]\n'), Capability.IGNORED),
        (answering(400, {"error": {"message": "stream_options is not supported"}}), Capability.NO),
        (answering(400, {"error": {"message": "no money"}}), Capability.UNKNOWN),
    ],
)  # fmt: skip
def test_a_paid_check_asks_for_one_token_of_the_chosen_model_only(chat: Handler, expected: Capability) -> None:
    paid: list[tuple[str, int]] = []

    def noting(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        if body["stream_options"] != {"include_usage": True}:
            return httpx.Response(400)
        paid.append((body["model"], body["max_tokens"]))
        return chat(request)

    inspection = server_that(chat=noting).inspect(kind="models", paid_model="qwen")
    assert inspection.stream_options == expected
    assert paid == [("qwen", 1)]


@pytest.mark.parametrize(
    ("embeddings", "expected"),
    [
        (answering(404, {"error": {"message": f"The model {NO_SUCH_MODEL!r} does not exist."}}), Capability.YES),
        (answering(200, {"data": []}), Capability.YES),
        (answering(404, {"detail": "Not Found"}), Capability.NO),
        (answering(501, {"error": "This server does not support embeddings."}), Capability.NO),
        (answering(400, {"error": "The model does not support Embeddings API"}), Capability.NO),
        (answering(500), Capability.UNKNOWN),
    ],
)
def test_embeddings_are_found_out_without_computing_any(embeddings: Handler, expected: Capability) -> None:
    server = server_that(chat=answering(404), embeddings=embeddings)
    assert server.inspect(kind="models").embeddings == expected


def test_a_server_without_a_list_can_be_probed_by_tcp() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        server = ModelServerClient(
            base_url=f"http://127.0.0.1:{listener.getsockname()[1]}/v1", transport=httpx.MockTransport(answering(404))
        )
        inspection = server.inspect(kind="tcp")
    assert inspection.is_good
    assert not inspection.has_model_list


# --- the real demo server --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo_url() -> Iterator[str]:
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "demo", "--port", str(port)], cwd=ROOT, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"

    def is_ready() -> bool:
        try:
            return httpx.get(f"{url}/healthz").status_code == 200
        except httpx.TransportError:
            return False

    try:
        wait_until(is_ready, seconds=20, what="the demo server")
        yield url
    finally:
        process.terminate()
        process.wait(10)


def test_the_demo_server_is_inspected_without_a_single_token(demo_url: str) -> None:
    def tokens() -> int:
        return int(httpx.get(f"{demo_url}/demo/stats").json()["totals"]["completion_tokens"])

    before = tokens()
    with ModelServerClient(base_url=f"{demo_url}/v1") as server:
        inspection = server.inspect(kind="models")
    assert inspection.is_good
    assert "demo-fast" in [model.id for model in inspection.models]
    assert inspection.stream_options == Capability.YES
    assert inspection.embeddings == Capability.YES
    assert tokens() == before


def test_the_demo_server_passes_the_paid_check_with_one_token(demo_url: str) -> None:
    with ModelServerClient(base_url=f"{demo_url}/v1") as server:
        assert server.inspect(kind="models", paid_model="demo-fast").stream_options == Capability.YES


def test_the_demo_server_without_v1_gets_the_hint(demo_url: str) -> None:
    with ModelServerClient(base_url=demo_url) as server:
        assert server.inspect(kind="models").trouble == Trouble.NOT_FOUND
