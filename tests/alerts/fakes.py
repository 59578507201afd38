"""The other side of every channel, as real local servers that are as strict as the real ones.

A bot or provider checks signature, time window, size and rate, and says its own codes within 200s. `fail("500")`,
`fail("429")`, `fail("garbage")`, `fail("nothing")`, `fail("hangup")`, `fail("redirect")`, `fail("huge")` or a code of the
service's own make the next answer that (`times` of them; 0: until `work()`). What was taken is in `taken`, what came in
`seen`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.server
import json
import re
import socketserver
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

Clock = Callable[[], float]


@dataclass(frozen=True)
class Request:
    """One request as it came."""

    path: str
    query: dict[str, str]
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def form(self) -> dict[str, str]:
        return dict(parse_qsl(self.body.decode(), keep_blank_values=True))


Reply = tuple[int, bytes, dict[str, str]]
HANGS_UP: Reply = (0, b"", {})
"""The connection ends without an answer."""


def _json(status: int, value: Any) -> Reply:
    return status, json.dumps(value).encode(), {"Content-Type": "application/json"}


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


@dataclass
class Service:
    """A service on a free port of this machine. `now` is its clock, which signatures are judged by."""

    now: Clock = time.time
    per_minute: int = 1_000_000
    per_second: int = 1_000_000
    retry_after: int = 30
    seen: list[Request] = field(default_factory=list)
    taken: list[Request] = field(default_factory=list)
    path = "/"

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._failures: list[str] = []
        self._always = ""
        self._times: list[float] = []
        self._let_go = threading.Event()
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                parts = urlsplit(self.path)
                query = dict(parse_qsl(parts.query, keep_blank_values=True))
                request = Request(parts.path, query, {k.lower(): v for k, v in self.headers.items()}, body)
                reply = service._reply(request)
                if reply is None:
                    # Taken, and then nothing: neither an answer nor an end, until the test is over or the client is gone.
                    service._let_go.wait(30)
                    self.close_connection = True
                    return
                status, content, headers = reply
                if not status:
                    self.close_connection = True
                    return
                self.send_response(status)
                for name, value in {"Content-Length": str(len(content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def handle(self) -> None:
                try:
                    super().handle()
                except (BrokenPipeError, ConnectionResetError):
                    pass  # a client that waits no longer

            def log_message(self, *args: object) -> None: ...

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    @property
    def url(self) -> str:
        return f"http://{self.host}{self.path}"

    def stop(self) -> None:
        self._let_go.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def fail(self, how: str, *, times: int = 1) -> None:
        with self._lock:
            if times:
                self._failures += [how] * times
            else:
                self._always = how

    def work(self) -> None:
        with self._lock:
            self._failures, self._always = [], ""

    def _reply(self, request: Request) -> Reply | None:
        with self._lock:
            self.seen.append(request)
            how = self._failures.pop(0) if self._failures else self._always
            if how in {"nothing", "hangup", "garbage"}:
                # The worst kind: it has the message and does not say so.
                self.taken.append(request)
            if how:
                return self._failure(how)
            refusal = self._refuse(request) or self._too_many()
            if refusal is None:
                self.taken.append(request)
            return refusal or self._accept(request)

    def _too_many(self) -> Reply | None:
        at = self.now()
        self._times = [one for one in self._times if one > at - 60]
        just_now = sum(one > at - 1 for one in self._times)
        if len(self._times) >= self.per_minute or just_now >= self.per_second:
            return self._rate_limited()
        self._times.append(at)
        return None

    def _failure(self, how: str) -> Reply | None:
        plain: dict[str, Reply | None] = {
            "500": (500, b"Internal Server Error", {}),
            "429": (429, b"slow down", {"Retry-After": str(self.retry_after)}),
            "garbage": (200, b"<html>Sign in to the hotel's network</html>", {"Content-Type": "text/html"}),
            "huge": (200, b"x" * 200_000, {}),
            "redirect": (302, b"", {"Location": "http://169.254.169.254/latest/meta-data/"}),
            "404": (404, b"not here", {}),
            "410": (410, b"gone", {}),
            "400": (400, b"what is this", {}),
            "nothing": None,
            "hangup": HANGS_UP,
        }
        return plain[how] if how in plain else self._of_code(how)

    # --- what the services differ in
    def _refuse(self, request: Request) -> Reply | None:
        return None

    def _accept(self, request: Request) -> Reply:
        return 204, b"", {}

    def _rate_limited(self) -> Reply:
        return 429, b"slow down", {"Retry-After": str(self.retry_after)}

    def _of_code(self, code: str) -> Reply:
        raise NotImplementedError(code)


@dataclass
class Feishu(Service):
    """A custom bot: signature and time in the body, a card that is one, 20 KB, 100 a minute and 5 a second."""

    secret: str = ""
    keyword: str = ""
    per_minute: int = 100
    per_second: int = 5
    path = "/open-apis/bot/v2/hook/f1a9c3d2-7b64-4c1e-9a55-0d2e8b7c6f21"

    def _refuse(self, request: Request) -> Reply | None:
        if request.path != self.path:
            return self._of_code("19001")
        if len(request.body) > 20 * 1024:
            return self._of_code("9499")
        body = request.json
        if self.secret:
            stamp = str(body.get("timestamp", ""))
            digest = hmac.new(f"{stamp}\n{self.secret}".encode(), b"", hashlib.sha256).digest()
            is_near = stamp.isdigit() and abs(self.now() - int(stamp)) <= 3600
            if body.get("sign") != base64.b64encode(digest).decode() or not is_near:
                return self._of_code("19021")
        if body.get("msg_type") != "interactive" or body["card"]["header"]["template"] not in {"red", "green", "blue"}:
            return self._of_code("9499")
        if self.keyword and self.keyword not in json.dumps(body, ensure_ascii=False):
            return self._of_code("19024")
        return None

    def _accept(self, request: Request) -> Reply:
        return _json(200, {"StatusCode": 0, "StatusMessage": "success", "code": 0, "data": {}, "msg": "success"})

    def _rate_limited(self) -> Reply:
        return self._of_code("11232")

    def _of_code(self, code: str) -> Reply:
        texts = {
            "19001": "param invalid: incoming webhook access token invalid",
            "19021": "sign match fail or timestamp is not within one hour from current time",
            "19024": "Key Words Not Found",
            "11232": "frequency limited psm[lark.oapi.app_platform_runtime]appID[1500]",
            "9499": "Bad Request",
        }
        return _json(200, {"code": int(code), "data": {}, "msg": texts.get(code, "something else")})


@dataclass
class DingTalk(Service):
    """A custom bot: signature in the query, encoded once; 20 a minute, then deaf."""

    secret: str = ""
    per_minute: int = 20
    path = "/robot/send?access_token=b7d0a1f6c9e84f2f8d3c5a6e7f809a1b2c3d4e5f60718293a4b5c6d7e8f90a1b"

    def _refuse(self, request: Request) -> Reply | None:
        if request.query.get("access_token") != self.path.rpartition("=")[2]:
            return self._of_code("300001")
        if self.secret:
            stamp = request.query.get("timestamp", "")
            digest = hmac.new(self.secret.encode(), f"{stamp}\n{self.secret}".encode(), hashlib.sha256).digest()
            is_near = stamp.isdigit() and abs(self.now() * 1000 - int(stamp)) <= 3_600_000
            if request.query.get("sign") != base64.b64encode(digest).decode() or not is_near:
                return self._of_code("310000")
        body = request.json
        if body.get("msgtype") != "markdown" or not body["markdown"]["title"] or len(request.body) > 20_000:
            return self._of_code("40035")
        return None

    def _accept(self, request: Request) -> Reply:
        return _json(200, {"errcode": 0, "errmsg": "ok"})

    def _rate_limited(self) -> Reply:
        return self._of_code("130101")

    def _of_code(self, code: str) -> Reply:
        texts = {
            "300001": "token is not exist", "310000": "sign not match", "130101": "send too fast, exceed 20 times per minute",
            "40035": "invalid parameters", "-1": "system busy",
        }  # fmt: skip
        return _json(200, {"errcode": int(code), "errmsg": texts.get(code, "something else")})


@dataclass
class WeCom(Service):
    """A group bot: a key in the address, 4,096 bytes of markdown, 20 a minute."""

    per_minute: int = 20
    path = "/cgi-bin/webhook/send?key=693a91f6-7b3e-4a5e-8c1d-2f4b6a8c0e12"

    def _refuse(self, request: Request) -> Reply | None:
        if request.query.get("key") != self.path.rpartition("=")[2]:
            return self._of_code("93000")
        body = request.json
        if body.get("msgtype") != "markdown" or len(body["markdown"]["content"].encode()) > 4096:
            return self._of_code("40058")
        return None

    def _accept(self, request: Request) -> Reply:
        return _json(200, {"errcode": 0, "errmsg": "ok"})

    def _rate_limited(self) -> Reply:
        return self._of_code("45009")

    def _of_code(self, code: str) -> Reply:
        texts = {
            "93000": "invalid webhook url, hint: [1], more info at https://open.work.weixin.qq.com/devtool/query?e=93000",
            "45009": "api freq out of limit", "40058": "markdown.content exceed max length 4096", "-1": "system busy",
        }  # fmt: skip
        return _json(200, {"errcode": int(code), "errmsg": texts.get(code, "something else")})


@dataclass
class Webhook(Service):
    """A program that checks our signature and that the message is fresh; 1 MiB, 6,000 a minute."""

    secret: str = ""
    per_minute: int = 6_000
    max_body: int = 1024 * 1024
    path = "/alerts/incoming/4f9d2c7a"

    def _refuse(self, request: Request) -> Reply | None:
        if len(request.body) > self.max_body:
            return 413, b"too large", {}
        if self.secret.startswith("Bearer "):
            return None if request.headers.get("authorization") == self.secret else (401, b"who are you", {})
        if self.secret:
            stamp = request.headers.get("x-arkconsole-timestamp", "")
            digest = hmac.new(self.secret.encode(), f"{stamp}.".encode() + request.body, hashlib.sha256).hexdigest()
            is_near = stamp.isdigit() and abs(self.now() - int(stamp)) <= 300
            if request.headers.get("x-arkconsole-signature") != f"sha256={digest}" or not is_near:
                return 401, b"bad signature", {}
        return None if request.json.get("version") == "1" else (422, b"unknown version", {})


@dataclass
class Aliyun(Service):
    """Voice Messaging Service: RPC signature, known template with its variables, one call a minute for a number."""

    key: str = "LTAI5tExampleKeyId"
    secret: str = "aliyun-secret"
    templates: Mapping[str, tuple[str, ...]] = field(
        default_factory=lambda: {"TTS_1001": ("level", "endpoint", "rule"), "TTS_1002": ("code",)}
    )

    def __post_init__(self) -> None:
        self._calls: dict[str, list[float]] = {}
        self._nonces: set[str] = set()
        super().__post_init__()

    def _refuse(self, request: Request) -> Reply | None:
        form = request.form
        if form.get("AccessKeyId") != self.key:
            return self._of_code("InvalidAccessKeyId.NotFound")
        given = form.pop("Signature", "")
        pairs = "&".join(f"{quote(name, safe='-_.~')}={quote(form[name], safe='-_.~')}" for name in sorted(form))
        signed = f"POST&{quote('/', safe='')}&{quote(pairs, safe='-_.~')}"
        digest = hmac.new(f"{self.secret}&".encode(), signed.encode(), hashlib.sha1).digest()
        if given != base64.b64encode(digest).decode() or form["SignatureNonce"] in self._nonces:
            return self._of_code("SignatureDoesNotMatch")
        self._nonces.add(form["SignatureNonce"])
        at = time.strftime("%Y-%m-%dT%H:%M", time.gmtime(self.now()))
        if not form["Timestamp"].startswith(at[:13]):
            return self._of_code("InvalidTimeStamp.Expired")
        names = self.templates.get(form.get("TtsCode", ""))
        if names is None:
            return self._of_code("isv.TTS_TEMPLATE_ILLEGAL")
        if set(json.loads(form["TtsParam"])) != set(names):
            return self._of_code("isv.TEMPLATE_MISSING_PARAMETERS")
        number = form["CalledNumber"]
        if number.startswith("+") or not number.isdigit():
            return self._of_code("isv.MOBILE_NUMBER_ILLEGAL")
        calls = [one for one in self._calls.get(number, []) if one > self.now() - 60]
        self._calls[number] = [*calls, self.now()]
        return self._of_code("isv.BUSINESS_LIMIT_CONTROL") if calls else None

    def _accept(self, request: Request) -> Reply:
        return _json(200, {"Code": "OK", "Message": "OK", "CallId": "116012354148^102281", "RequestId": "D9CB3933"})

    def _of_code(self, code: str) -> Reply:
        status = 200 if code.startswith(("isv.", "isp.")) else 400 if "Signature" in code else 404
        return _json(status, {"Code": code, "Message": f"said {code}", "RequestId": "D9CB3933"})


@dataclass
class Twilio(Service):
    """Programmable Voice: Basic auth, a form with TwiML, E.164 numbers."""

    account: str = "AC0123456789abcdef0123456789abcdef"
    token: str = "twilio-token"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def _refuse(self, request: Request) -> Reply | None:
        expected = base64.b64encode(f"{self.account}:{self.token}".encode()).decode()
        if request.headers.get("authorization") != f"Basic {expected}":
            return self._of_code("20003")
        if unquote(request.path) != f"/2010-04-01/Accounts/{self.account}/Calls.json":
            return self._of_code("20404")
        form = request.form
        if not form.get("To", "").startswith("+"):
            return self._of_code("21211")
        return None if form.get("From") and form.get("Twiml", "").startswith("<Response>") else self._of_code("21205")

    def _accept(self, request: Request) -> Reply:
        return _json(201, {"sid": "CA0123456789abcdef0123456789abcdef", "status": "queued"})

    def _of_code(self, code: str) -> Reply:
        status = {"20003": 401, "20404": 404, "20429": 429}.get(code, 400)
        return _json(status, {"code": int(code), "message": f"said {code}", "status": status})


class Smtp:
    """A mail server that keeps what it takes: mails that are whole, of `max_size` bytes at most.

    `refuse` maps a stage (HELLO, MAIL, RCPT, DATA, END) to what it answers there.
    """

    def __init__(self, *, max_size: int = 10 * 1024 * 1024) -> None:
        self.mails: list[EmailMessage] = []
        self.refuse: dict[str, str] = {}
        self.max_size = max_size
        self.hangs_up_after_data = False
        sink = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                try:
                    self._talk()
                except (BrokenPipeError, ConnectionResetError):
                    pass

            def _say(self, text: str) -> None:
                self.wfile.write(f"{text}\r\n".encode())

            def _talk(self) -> None:
                self._say(sink.refuse.get("HELLO", "220 fake"))
                while line := self.rfile.readline():
                    verb = line[:4].decode().upper()
                    if verb == "DATA" and "DATA" not in sink.refuse:
                        self._say("354 go on")
                        refusal = sink._take(self.rfile)
                        if sink.hangs_up_after_data:
                            return
                        self._say(refusal or "250 taken")
                    elif verb == "QUIT":
                        self._say("221 bye")
                        return
                    else:
                        self._say(sink.refuse.get(verb) or sink._answer(verb, line))

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            allow_reuse_address = True

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def mails_to(self, address: str) -> list[EmailMessage]:
        return [mail for mail in self.mails if address in str(mail["To"])]

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, verb: str, line: bytes) -> str:
        if verb == "EHLO":
            return f"250-fake\r\n250 SIZE {self.max_size}"
        announced = re.search(rb"\bSIZE=(\d+)", line, re.IGNORECASE) if verb == "MAIL" else None
        if announced and int(announced[1]) > self.max_size:
            return "552 5.3.4 message size exceeds fixed maximum message size"
        return "250 fine"

    def _take(self, stream: Any) -> str:
        """Read a mail and keep it, or say why not."""
        lines = []
        while (line := stream.readline()) not in {b".\r\n", b""}:
            lines.append(line.removeprefix(b".") if line.startswith(b"..") else line)
        content = b"".join(lines)
        mail = message_from_bytes(content, _class=EmailMessage, policy=policy.default)
        refusal = self.refuse.get("END") or self._fault(content, mail)
        if not refusal:
            self.mails.append(mail)
        return refusal

    def _fault(self, content: bytes, mail: EmailMessage) -> str:
        if len(content) > self.max_size:
            return "552 5.3.4 too much mail data"
        missing = [name for name in ("Message-ID", "Date", "From", "To") if not mail[name]]
        if missing:
            return f"550 5.6.0 no {', '.join(missing)}"
        # A part without headers counts as false.
        return "550 5.6.0 no text part" if mail.get_body(("plain",)) is None else ""


@contextmanager
def running(service: Any) -> Iterator[Any]:
    """The service until the block ends."""
    try:
        yield service
    finally:
        service.stop()
