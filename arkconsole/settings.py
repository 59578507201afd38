"""Settings of console, gateway and workers: environment only, read once, wrong values refused by name.

Every variable read here is in the table of `docs/configuration.md` (a test compares the two).
"""

from __future__ import annotations

import ipaddress
import json
import re
import socket
import sys
import zoneinfo
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cryptography.fernet import Fernet
from django.core.exceptions import ImproperlyConfigured
from environs import Env, EnvError

BASE_DIR = Path(__file__).resolve().parent.parent
env = Env()


def _url(name: str, default: str, schemes: set[str]) -> str:
    value = env.str(name, default)
    parts = urlsplit(value)
    if parts.scheme not in schemes:
        raise ImproperlyConfigured(f"{name}={value!r}: the scheme must be one of {', '.join(sorted(schemes))}")
    if parts.scheme in {"http", "https"} and not parts.hostname:
        raise ImproperlyConfigured(f"{name}={value!r}: a host is missing; write it like https://ark.example.com")
    return value.rstrip("/") if parts.scheme in {"http", "https"} else value


def _number(name: str, default: int, low: int, high: int) -> int:
    value: int = env.int(name, default)
    if not low <= value <= high:
        raise ImproperlyConfigured(f"{name}={value}: must be between {low} and {high}")
    return value


def _networks(name: str) -> list[str]:
    found = []
    entries: list[str] = env.list(name, [])
    for entry in entries:
        try:
            found.append(str(ipaddress.ip_network(entry.strip(), strict=False)))
        except ValueError:
            raise ImproperlyConfigured(f"{name}: {entry!r} is neither an address nor a network") from None
    return found


def _headers(name: str) -> dict[str, str]:
    found = {}
    entries: list[str] = env.list(name, [])
    for entry in filter(None, (entry.strip() for entry in entries)):
        header, equals, value = entry.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z0-9-]+", header):
            raise ImproperlyConfigured(f"{name}: write it like X-Scope-OrgID=team, comma-separated")
        found[header] = value
    return found


def _zone(name: str, default: str) -> str:
    value: str = env.str(name, default)
    try:
        zoneinfo.ZoneInfo(value)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise ImproperlyConfigured(f"{name}={value!r}: no such time zone; write it like Europe/Berlin") from None
    return value


def _secret_from_data_dir(name: str, filename: str) -> str:
    """The variable, else what `manage.py up` generated into the data directory, else nothing."""
    if value := env.str(name, ""):
        return value
    try:
        return (DATA_DIR / filename).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _noted_by_up(name: str, otherwise: str) -> str:
    """The address of a server that `manage.py up` itself runs, as it noted it in `run/ports.json`."""
    try:
        return str(json.loads((DATA_DIR / "run" / "ports.json").read_text(encoding="utf-8"))[name])
    except (OSError, ValueError, KeyError, TypeError):
        return otherwise


def _token_from_data_dir(name: str, filename: str) -> str:
    """What other programs show; a short one could be tried out, and one with a space or a line break is no HTTP header."""
    value = _secret_from_data_dir(name, filename)
    if value and not re.fullmatch(r"[A-Za-z0-9._~+/=-]{16,}", value):
        raise ImproperlyConfigured(f"{name}: must be 16 or more letters, digits or . _ ~ + / = -")
    return value


def _address_of_this_machine() -> str:
    """The address that others reach this machine by: that of its default route, else its name. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return socket.gethostname()


def _reachable_on_this_machine(host: str) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]" if ":" in host else host


try:
    DATA_DIR = Path(env.str("DATA_DIR", str(BASE_DIR / "var"))).resolve()
    DEBUG: bool = env.bool("DEBUG", False)
    DEMO: bool = env.bool("DEMO", True)
    DEMO_URL: str = env.str("DEMO_URL", "")

    BIND_HOST: str = env.str("BIND_HOST", "127.0.0.1")
    PORT = _number("PORT", 8000, 1, 65535)
    GATEWAY_PORT = _number("GATEWAY_PORT", 8001, 1, 65535)
    GATEWAY_WORKERS = _number("GATEWAY_WORKERS", 2, 1, 64)
    if PORT == GATEWAY_PORT:
        raise ImproperlyConfigured(f"PORT and GATEWAY_PORT are both {PORT}; give each its own")
    CONSOLE_URL = _url("CONSOLE_URL", f"http://127.0.0.1:{PORT}", {"http", "https"})
    GATEWAY_URL = _url("GATEWAY_URL", f"http://127.0.0.1:{GATEWAY_PORT}", {"http", "https"})
    # Where the console reaches the gateway for try-it; differs from GATEWAY_URL behind a proxy or in containers.
    GATEWAY_INTERNAL_URL = _url("GATEWAY_INTERNAL_URL", GATEWAY_URL, {"http", "https"})
    GATEWAY_MAX_BODY_BYTES = _number("GATEWAY_MAX_BODY_BYTES", 32 * 1024 * 1024, 1024, 1024**3)
    ALLOWED_HOSTS: list[str] = env.list("ALLOWED_HOSTS", [])
    TRUSTED_PROXIES = _networks("TRUSTED_PROXIES")

    REDIS_URL = _url("REDIS_URL", _noted_by_up("redis_url", "redis://127.0.0.1:6379/0"), {"redis", "rediss", "unix"})
    if env.str("DATABASE_URL", ""):
        _database: dict[str, Any] = dict(env.dj_db_url("DATABASE_URL"))
    else:
        _database = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(DATA_DIR / "arkconsole.sqlite3")}

    SECRET_KEY = _secret_from_data_dir("SECRET_KEY", "secret-key")
    FIELD_ENCRYPTION_KEY: list[str] = [
        key.strip() for key in _secret_from_data_dir("FIELD_ENCRYPTION_KEY", "field-encryption-key").split(",") if key
    ]
    ADMIN_PASSWORD: str = env.str("ADMIN_PASSWORD", "")
    EMAIL_URL: str = env.str("EMAIL_URL", "")
    _email: dict[str, Any] = env.dj_email_url("EMAIL_URL") if EMAIL_URL else {}
    DEFAULT_FROM_EMAIL: str = env.str("DEFAULT_FROM_EMAIL", "arkconsole@localhost")
    LANGUAGE_CODE: str = env.str("LANGUAGE_CODE", "zh-hans", validate=lambda v: v in {"zh-hans", "en"})
    TIME_ZONE = _zone("TIME_ZONE", "Asia/Shanghai")
    CALL_RECORD_DAYS = _number("CALL_RECORD_DAYS", 30, 1, 3650)

    # Monitoring. No PROMETHEUS_URL: the one that `up` runs, "" where there is none.
    PROMETHEUS_IS_EXTERNAL = bool(env.str("PROMETHEUS_URL", ""))
    if "@" in urlsplit(env.str("PROMETHEUS_URL", "")).netloc:
        raise ImproperlyConfigured(
            "PROMETHEUS_URL: pages show it; name PROMETHEUS_USERNAME and PROMETHEUS_PASSWORD apart"
        )
    PROMETHEUS_URL = (
        _url("PROMETHEUS_URL", "", {"http", "https"}) if PROMETHEUS_IS_EXTERNAL else _noted_by_up("prometheus_url", "")
    )
    # Ours, but run by somebody else than `up`: the container beside this one.
    PROMETHEUS_INTERNAL_URL = _url("PROMETHEUS_INTERNAL_URL", "", {"http", "https", ""})
    PROMETHEUS_MAX_SIZE: str = env.str("PROMETHEUS_MAX_SIZE", "20GB")
    if not re.fullmatch(r"0|[1-9][0-9]*[KMGTP]?B", PROMETHEUS_MAX_SIZE):
        raise ImproperlyConfigured(f"PROMETHEUS_MAX_SIZE={PROMETHEUS_MAX_SIZE!r}: write it like 20GB; 0 for no limit")
    PROMETHEUS_BIN: str = env.str("PROMETHEUS_BIN", "")
    PROMETHEUS_USERNAME: str = env.str("PROMETHEUS_USERNAME", "")
    PROMETHEUS_PASSWORD: str = env.str("PROMETHEUS_PASSWORD", "")
    PROMETHEUS_TOKEN: str = env.str("PROMETHEUS_TOKEN", "")
    PROMETHEUS_HEADERS = _headers("PROMETHEUS_HEADERS")
    if PROMETHEUS_TOKEN and PROMETHEUS_USERNAME:
        raise ImproperlyConfigured("PROMETHEUS_TOKEN and PROMETHEUS_USERNAME are both set; use one")
    METRICS_TOKEN = _token_from_data_dir("METRICS_TOKEN", "metrics-token")
    GATEWAY_METRICS_HOST: str = env.str("GATEWAY_METRICS_HOST", "127.0.0.1")
    GATEWAY_METRICS_ADVERTISE: str = env.str("GATEWAY_METRICS_ADVERTISE", "") or (
        _address_of_this_machine() if GATEWAY_METRICS_HOST in {"0.0.0.0", "::", ""} else GATEWAY_METRICS_HOST
    )
    SCRAPE_SECONDS = _number("SCRAPE_SECONDS", 15, 1, 60)
    # Where Prometheus reaches the console; differs from CONSOLE_URL behind a proxy or in containers.
    CONSOLE_INTERNAL_URL = _url(
        "CONSOLE_INTERNAL_URL", f"http://{_reachable_on_this_machine(BIND_HOST)}:{PORT}", {"http", "https"}
    )

    # Alerts. Rules are files that Prometheus reads; whose Prometheus or Alertmanager is not ours says where and whether.
    EVALUATION_SECONDS = _number("EVALUATION_SECONDS", 15, 1, 300)
    PROMTOOL_BIN: str = env.str("PROMTOOL_BIN", "")
    PROMETHEUS_RULES_DIR: str = env.str("PROMETHEUS_RULES_DIR", "") or (
        "" if PROMETHEUS_IS_EXTERNAL else str(DATA_DIR / "prometheus" / "rules")
    )
    PROMETHEUS_RELOAD_URL = _url(
        "PROMETHEUS_RELOAD_URL", f"{PROMETHEUS_URL}/-/reload" if PROMETHEUS_URL else "", {"http", "https", ""}
    )
    # "": the one that `up` runs, if any (`alerts.installation`).
    ALERTMANAGER_URL = _url("ALERTMANAGER_URL", "", {"http", "https", ""})
    ALERTMANAGER_BIN: str = env.str("ALERTMANAGER_BIN", "")
    AMTOOL_BIN: str = env.str("AMTOOL_BIN", "")
    ALERTMANAGER_CONFIG: str = env.str("ALERTMANAGER_CONFIG", "") or (
        "" if ALERTMANAGER_URL else str(DATA_DIR / "alertmanager" / "alertmanager.yml")
    )
    ALERT_HOOK_TOKEN = _token_from_data_dir("ALERT_HOOK_TOKEN", "alert-hook-token")
    # As Prometheus and Alertmanager see it; `prepare` writes it there where the token is in the environment.
    ALERT_HOOK_TOKEN_FILE: str = env.str("ALERT_HOOK_TOKEN_FILE", "") or str(
        DATA_DIR / ("run/alert-hook-token" if env.str("ALERT_HOOK_TOKEN", "") else "alert-hook-token")
    )
    ALERT_KEEP_FIRING_SECONDS = _number("ALERT_KEEP_FIRING_SECONDS", 120, 0, 3600)

    # Messages of alerts. The hosts of Feishu, DingTalk and WeCom are known; these are further ones, maybe inside.
    ALERT_BOT_HOSTS: list[str] = env.list("ALERT_BOT_HOSTS", [])
    ALERT_ALLOW_HTTP: bool = env.bool("ALERT_ALLOW_HTTP", False)
    ALERT_ALLOW_PRIVATE_ADDRESSES: bool = env.bool("ALERT_ALLOW_PRIVATE_ADDRESSES", False)
    ALERT_PHONE_PROVIDER: str = env.str("ALERT_PHONE_PROVIDER", "")
    ALERT_PHONE_URL = _url("ALERT_PHONE_URL", "", {"http", "https", ""})
    ALERT_PHONE_KEY: str = env.str("ALERT_PHONE_KEY", "")
    ALERT_PHONE_SECRET: str = env.str("ALERT_PHONE_SECRET", "")
    ALERT_PHONE_FROM: str = env.str("ALERT_PHONE_FROM", "")
    ALERT_PHONE_TEMPLATE: str = env.str("ALERT_PHONE_TEMPLATE", "")
    ALERT_PHONE_CODE_TEMPLATE: str = env.str("ALERT_PHONE_CODE_TEMPLATE", "")
except EnvError as error:
    raise ImproperlyConfigured(str(error)) from None

_PHONE_NEEDS = {
    "": (),
    "aliyun": ("ALERT_PHONE_KEY", "ALERT_PHONE_SECRET", "ALERT_PHONE_TEMPLATE", "ALERT_PHONE_CODE_TEMPLATE"),
    "twilio": ("ALERT_PHONE_KEY", "ALERT_PHONE_SECRET", "ALERT_PHONE_FROM"),
    "webhook": ("ALERT_PHONE_URL",),
}
if ALERT_PHONE_PROVIDER not in _PHONE_NEEDS:
    raise ImproperlyConfigured(f"ALERT_PHONE_PROVIDER={ALERT_PHONE_PROVIDER!r}: must be aliyun, twilio or webhook")
for _name in _PHONE_NEEDS[ALERT_PHONE_PROVIDER]:
    if not globals()[_name]:
        raise ImproperlyConfigured(f"{_name} is not set; ALERT_PHONE_PROVIDER={ALERT_PHONE_PROVIDER} needs it")

# Commands that need no secret (migrations check, translations, the supervisor that generates them) run before any
# key exists; a serving process never does.
_NEEDS_NO_SECRET = {"up", "makemigrations", "collectstatic", "check", "compilemessages", "help", "migrate"}
if not SECRET_KEY or not FIELD_ENCRYPTION_KEY:
    if len(sys.argv) > 1 and sys.argv[1] in _NEEDS_NO_SECRET:
        SECRET_KEY = SECRET_KEY or "only-for-commands-that-serve-nothing-" + "x" * 32
        FIELD_ENCRYPTION_KEY = FIELD_ENCRYPTION_KEY or [Fernet.generate_key().decode()]
    else:
        raise ImproperlyConfigured(
            "SECRET_KEY and FIELD_ENCRYPTION_KEY are not set; `make run` generates both into DATA_DIR, "
            "elsewhere set them in the environment (docs/configuration.md says how to make one)"
        )
for _position, _key in enumerate(FIELD_ENCRYPTION_KEY, start=1):
    try:
        Fernet(_key)
    except ValueError:
        raise ImproperlyConfigured(
            f"FIELD_ENCRYPTION_KEY: key {_position} is not 32 url-safe base64-encoded bytes"
        ) from None

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.humanize",
    "whitenoise.runserver_nostatic",
    "arkconsole.static_files.StaticFiles",
    "django.forms",
    "django_htmx",
    "csp",
    "allauth",
    "allauth.account",
    "arkconsole",
    "alerts",
    "monitoring",
    "gateway",
    "endpoints",
    "metering",
    "catalog",
    "iam",
    "audit",
    "common",
]

MIDDLEWARE = [
    "arkconsole.health.probes_middleware",
    "common.middleware.request_id_middleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "iam.middleware.locale_middleware",
    "django.contrib.auth.middleware.LoginRequiredMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "iam.middleware.project_middleware",
    "common.middleware.errors_middleware",
]

ROOT_URLCONF = "arkconsole.urls"
WSGI_APPLICATION = "arkconsole.wsgi.application"
FORM_RENDERER = "django.forms.renderers.TemplatesSetting"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.template.context_processors.i18n",
                "django.template.context_processors.tz",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "arkconsole.context.frame",
            ],
        },
    }
]

DATABASES = {"default": _database}
if _database["ENGINE"] == "django.db.backends.sqlite3":
    _database.setdefault("OPTIONS", {}).update(
        transaction_mode="IMMEDIATE", timeout=20, init_command="PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL"
    )
else:
    _database.setdefault("CONN_MAX_AGE", 60)
    _database.setdefault("CONN_HEALTH_CHECKS", True)
    if _database["ENGINE"] == "django.db.backends.postgresql":
        # A database host that vanished is noticed within seconds, not after the kernel's two hours.
        _database["OPTIONS"] = {
            "connect_timeout": 5,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 15_000,
            **_database.get("OPTIONS", {}),
        }
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# Throttling of sign-in must not need Redis, and must hold over several console processes: the database's cache table.
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.db.DatabaseCache",
        "LOCATION": "django_cache",
        "OPTIONS": {"MAX_ENTRIES": 50_000},
    }
}

AUTH_USER_MODEL = "iam.User"
AUTHENTICATION_BACKENDS = [
    "django.contrib.auth.backends.ModelBackend",
    "allauth.account.auth_backends.AuthenticationBackend",
    "iam.backends.PolicyBackend",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
LOGIN_URL = "account_login"
LOGIN_REDIRECT_URL = "/"
ACCOUNT_LOGIN_METHODS = {"username"}
ACCOUNT_SIGNUP_FIELDS = ["username*", "password1*", "password2*"]
ACCOUNT_EMAIL_VERIFICATION = "none"
ACCOUNT_ADAPTER = "iam.adapters.AccountAdapter"
ACCOUNT_LOGOUT_ON_GET = False
ACCOUNT_SESSION_REMEMBER = True
ACCOUNT_PREVENT_ENUMERATION = True
ACCOUNT_EMAIL_UNKNOWN_ACCOUNTS = False
# What API keys may be scoped to lives in rooms above `iam`.
IAM_SCOPE_CATALOGUE = "arkconsole.scopes"
# What rooms above `monitoring` mark on an endpoint's charts.
MONITORING_MARKS = ("alerts.marks.of_endpoint",)
CSRF_FAILURE_VIEW = "arkconsole.views.csrf_failure"
ACCOUNT_RATE_LIMITS = {"login": "60/m/ip", "login_failed": "10/m/ip,5/5m/key"}

EMAIL_BACKEND = _email.get("EMAIL_BACKEND", "django.core.mail.backends.smtp.EmailBackend")
EMAIL_HOST, EMAIL_PORT = _email.get("EMAIL_HOST", "localhost"), _email.get("EMAIL_PORT", 25)
EMAIL_HOST_USER, EMAIL_HOST_PASSWORD = _email.get("EMAIL_HOST_USER", ""), _email.get("EMAIL_HOST_PASSWORD", "")
EMAIL_USE_TLS, EMAIL_USE_SSL = _email.get("EMAIL_USE_TLS", False), _email.get("EMAIL_USE_SSL", False)
EMAIL_TIMEOUT = 10

LANGUAGES = [("zh-hans", "简体中文"), ("en", "English")]
LOCALE_PATHS = [BASE_DIR / "locale"]
USE_I18N = True
USE_TZ = True

STATIC_URL = "static/"
STATIC_ROOT = BASE_DIR / "staticfiles"
STATICFILES_DIRS: list[Any] = [BASE_DIR / "static"]
for _prefix, _folder in {
    "vendor/tabler": "node_modules/@tabler/core/dist",
    "vendor/uplot": "node_modules/uplot/dist",
}.items():
    if (BASE_DIR / _folder).is_dir():
        STATICFILES_DIRS.append((_prefix, BASE_DIR / _folder))
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "arkconsole.static_files.Storage"},
}
WHITENOISE_MANIFEST_STRICT = False

# --- security: follows the scheme and host of CONSOLE_URL -----------------------------------------------------------
_console = urlsplit(CONSOLE_URL)
_is_https = _console.scheme == "https"
if not ALLOWED_HOSTS:
    ALLOWED_HOSTS = [str(_console.hostname)]
    if _console.hostname in {"127.0.0.1", "localhost", "::1"}:
        ALLOWED_HOSTS = ["127.0.0.1", "localhost", "[::1]"]
# Prometheus asks under the inner name.
if (_inner := urlsplit(CONSOLE_INTERNAL_URL).hostname) and not {_inner, f"[{_inner}]", "*"} & {*ALLOWED_HOSTS}:
    ALLOWED_HOSTS = [*ALLOWED_HOSTS, f"[{_inner}]" if ":" in _inner else _inner]
CSRF_TRUSTED_ORIGINS = [f"{_console.scheme}://{_console.netloc}"]
SECURE_SSL_REDIRECT = _is_https
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if _is_https else None
SECURE_HSTS_SECONDS = 31_536_000 if _is_https else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = _is_https
SECURE_HSTS_PRELOAD = _is_https
SECURE_REDIRECT_EXEMPT = [r"^healthz$", r"^readyz$", r"^metrics$", r"^monitoring/targets$", r"^hooks/"]
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = _is_https
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
# Cookies ignore ports: two copies on one host would sign each other out.
SESSION_COOKIE_NAME = f"ark_session_{_console.port or PORT}"
CSRF_COOKIE_NAME = f"ark_csrf_{_console.port or PORT}"
LANGUAGE_COOKIE_NAME = f"ark_language_{_console.port or PORT}"
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_AGE = 14 * 24 * 3600
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'none'"],
        "script-src": ["'self'"],
        "style-src": ["'self'"],
        "img-src": ["'self'", "data:"],
        "font-src": ["'self'"],
        "connect-src": ["'self'"],
        "form-action": ["'self'"],
        "frame-ancestors": ["'none'"],
        "base-uri": ["'none'"],
        "manifest-src": ["'self'"],
    }
}
SILENCED_SYSTEM_CHECKS = (
    [] if _is_https else ["security.W004", "security.W008", "security.W012", "security.W016"]
)  # plain http on loopback: they follow CONSOLE_URL's scheme

# --- background work -------------------------------------------------------------------------------------------------
CELERY_BROKER_URL = REDIS_URL.replace("unix://", "redis+socket://", 1) if REDIS_URL.startswith("unix") else REDIS_URL
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_DEFAULT_QUEUE = "ticks"
CELERY_TASK_ACKS_LATE = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_TASK_TIME_LIMIT = 120
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "visibility_timeout": 600,
    "socket_timeout": 10,
    "socket_connect_timeout": 3,
    "health_check_interval": 10,
    # Publishing is a nudge, never a condition of saving: give up quickly when Redis is away.
    "retry_policy": {"max_retries": 1, "interval_start": 0, "interval_step": 0.1, "interval_max": 0.1},
}
CELERY_TASK_PUBLISH_RETRY = False
CELERY_TIMEZONE = "UTC"
CELERY_WORKER_HIJACK_ROOT_LOGGER = False

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "{asctime} {levelname} {name}: {message}", "style": "{"}},
    "filters": {"calm": {"()": "arkconsole.logs.Calm"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "plain"}},
    "root": {"handlers": ["stderr"], "level": "INFO"},
    "loggers": {
        "httpx": {"level": "WARNING"},
        "django.request": {"level": "ERROR"},
        "celery.beat": {"level": "WARNING", "filters": ["calm"]},
        "celery.app.trace": {"level": "WARNING"},
        "celery.worker.strategy": {"level": "WARNING"},
        # A tick that waited too long is dropped by design, a line for each says nothing.
        "celery.worker.request": {"level": "WARNING"},
    },
}
