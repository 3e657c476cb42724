"""Every setting, from the environment, with a working default. Nothing here opens a file beyond the data folder's
Django secret, and nothing imports an app."""

from __future__ import annotations

import ipaddress
import os
import secrets
import sys
from datetime import timedelta
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from tokenhub import sso_settings
from tokenhub.env import (
    NO_WORDS,
    Environment,
    address,
    boolean,
    collector,
    dollars,
    issuer,
    listen_argument,
    networks,
    one_of,
    pairs,
    public_url,
    redactions,
    redis_url,
    seconds,
    share,
    time_zone,
    weights,
    whole,
    words,
)

BASE_DIR = Path(__file__).resolve().parent.parent
ENV = Environment()
VERSION = "0.1.0"

# -- where it runs -----------------------------------------------------------------------------------------------
TOKENHUB_ENV = ENV.read("TOKENHUB_ENV", "production", one_of("production", "development"), "development or production")
DEVELOPMENT = TOKENHUB_ENV == "development"
DEBUG = False
TOKENHUB_LISTEN_ADDR = ENV.read("TOKENHUB_LISTEN_ADDR", "127.0.0.1:8080", address, "where the server listens")
TOKENHUB_LISTEN_ADDR = listen_argument(sys.argv) or TOKENHUB_LISTEN_ADDR
TOKENHUB_WORKERS = ENV.read("TOKENHUB_WORKERS", 1, whole(1, 256), "worker processes")
TOKENHUB_DATA_DIR = ENV.read(
    "TOKENHUB_DATA_DIR",
    BASE_DIR / "data",
    lambda raw: Path(raw).expanduser().resolve(),
    "database, journal, secrets",
    shown="./data",
)
TOKENHUB_PUBLIC_URL = ENV.read(
    "TOKENHUB_PUBLIC_URL", "", public_url, "the address people use, when a proxy stands in front"
)
TOKENHUB_TRUSTED_PROXIES = ENV.read(
    "TOKENHUB_TRUSTED_PROXIES", NO_WORDS, networks, "addresses whose forwarded headers are believed", shown=""
)
TOKENHUB_TIME_ZONE = ENV.read("TOKENHUB_TIME_ZONE", "UTC", time_zone, "for budgets' calendar and for pages")


def _is_loopback(listen: str) -> bool:
    host = listen.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


_LOCAL_ONLY = _is_loopback(TOKENHUB_LISTEN_ADDR) and not TOKENHUB_TRUSTED_PROXIES
TOKENHUB_PUBLIC_MODELS = ENV.read(
    "TOKENHUB_PUBLIC_MODELS", _LOCAL_ONLY, boolean, "list models without a key", shown="true on loopback only"
)
TOKENHUB_PUBLIC_METRICS = ENV.read(
    "TOKENHUB_PUBLIC_METRICS", _LOCAL_ONLY, boolean, "serve metrics without a token", shown="true on loopback only"
)
TOKENHUB_METRICS_TOKEN = ENV.read("TOKENHUB_METRICS_TOKEN", "", str, "bearer token for /metrics")

# -- the data plane ----------------------------------------------------------------------------------------------
MODES = ("cheap", "normal", "high_confidence", "planning", "adversarial", "thompson")
TOKENHUB_DEFAULT_MODE = ENV.read(
    "TOKENHUB_DEFAULT_MODE", "normal", one_of(*MODES), "routing mode when none is asked for"
)
TOKENHUB_DEFAULT_MAX_BUDGET_USD = ENV.read(
    "TOKENHUB_DEFAULT_MAX_BUDGET_USD", Decimal("0.05"), dollars, "cost ceiling of one routed request"
)
TOKENHUB_DEFAULT_MAX_LATENCY_MS = ENV.read(
    "TOKENHUB_DEFAULT_MAX_LATENCY_MS", 20_000, whole(0, 300_000), "predicted latency ceiling of one routed request"
)
TOKENHUB_PROVIDER_TIMEOUT_SECS = ENV.read(
    "TOKENHUB_PROVIDER_TIMEOUT_SECS", 30.0, seconds, "to the first byte of a stream", shown="30"
)
TOKENHUB_REQUEST_TIMEOUT_SECS = ENV.read(
    "TOKENHUB_REQUEST_TIMEOUT_SECS", 600.0, seconds, "a whole non-stream call", shown="600"
)
TOKENHUB_STREAM_IDLE_TIMEOUT_SECS = ENV.read(
    "TOKENHUB_STREAM_IDLE_TIMEOUT_SECS", 60.0, seconds, "between two events of a stream", shown="60"
)
TOKENHUB_STREAM_KEEPALIVE_SECS = ENV.read(
    "TOKENHUB_STREAM_KEEPALIVE_SECS",
    10.0,
    seconds,
    "until a silent stream gets a comment that keeps its connection open",
    shown="10",
)
TOKENHUB_HEDGE_AFTER_MS = ENV.read(
    "TOKENHUB_HEDGE_AFTER_MS", 0, whole(0, 300_000), "until a silent stream's next model is asked as well"
)
TOKENHUB_OUTPUT_REPAIRS = ENV.read(
    "TOKENHUB_OUTPUT_REPAIRS", 1, whole(0, 5), "times a model is asked again for an answer of the wrong form"
)
TOKENHUB_MONEY_FAIL_OPEN = ENV.read(
    "TOKENHUB_MONEY_FAIL_OPEN",
    False,
    boolean,
    "whether requests are free while the budgets cannot be read",
    shown="false",
)
TOKENHUB_REWARD_WEIGHTS: dict[str, float] = ENV.read(
    "TOKENHUB_REWARD_WEIGHTS",
    {},
    weights("success", "cost", "latency", "feedback", "validity", "regenerated", "judge"),
    "what the parts of a reward count in the mode thompson",
    shown="success=1,cost=0,latency=0.2,feedback=4,validity=2,regenerated=2,judge=3",
)
TOKENHUB_JUDGE_MODEL = ENV.read("TOKENHUB_JUDGE_MODEL", "", str, "id of the model that judges answers of thompson")
TOKENHUB_JUDGE_SHARE = ENV.read(
    "TOKENHUB_JUDGE_SHARE", 0.02, share, "of the answers of thompson that are judged, where there is a judge"
)
TOKENHUB_CAPTURE_DAYS = ENV.read("TOKENHUB_CAPTURE_DAYS", 7, whole(1), "for which prompts and answers are kept")
TOKENHUB_CAPTURE_MAX_BYTES = ENV.read(
    "TOKENHUB_CAPTURE_MAX_BYTES", 65_536, whole(1024), "of a prompt, and of an answer, that are captured at most"
)
TOKENHUB_CAPTURE_REDACT: tuple[str, ...] = ENV.read(
    "TOKENHUB_CAPTURE_REDACT",
    (),
    redactions,
    "what is taken out of captured prompts and answers: email, card, iban, phone, regular expressions",
    shown="",
)
TOKENHUB_BODY_TIMEOUT_SECS = ENV.read(
    "TOKENHUB_BODY_TIMEOUT_SECS", 30.0, seconds, "for a client to deliver its request's body", shown="30"
)
TOKENHUB_MAX_BODY_BYTES = ENV.read("TOKENHUB_MAX_BODY_BYTES", 10_485_760, whole(1024), "largest request body")
TOKENHUB_RATE_LIMIT_RPS = ENV.read(
    "TOKENHUB_RATE_LIMIT_RPS", 60, whole(0), "requests per second and address; 0 turns the limit off"
)
TOKENHUB_RATE_LIMIT_BURST = ENV.read("TOKENHUB_RATE_LIMIT_BURST", 120, whole(1), "burst per address")
TOKENHUB_REDIS_URL = ENV.read(
    "TOKENHUB_REDIS_URL", "", redis_url, "redis://USER:PASSWORD@HOST:PORT/NUMBER, where hosts share their limits"
)
TOKENHUB_CORS_ORIGINS = ENV.read("TOKENHUB_CORS_ORIGINS", NO_WORDS, words, "exact origins allowed on /v1", shown="")
TOKENHUB_PROBE_SECONDS = ENV.read(
    "TOKENHUB_PROBE_SECONDS", 30, whole(0, 86_400), "between two probes of a provider; 0 turns probes off"
)
TOKENHUB_UPSTREAM_TRANSPORT = ENV.read(
    "TOKENHUB_UPSTREAM_TRANSPORT", "direct", one_of("direct", "httpx"), "HTTP client towards providers"
)
TOKENHUB_SANDBOX = ENV.read(
    "TOKENHUB_SANDBOX", DEVELOPMENT, boolean, "offer the built-in sandbox models", shown="true in development"
)


TOKENHUB_PLAN_RETENTION_HOURS = ENV.read(
    "TOKENHUB_PLAN_RETENTION_HOURS", 24, whole(1, 8_760), "for runs of /v1/plan and their answers to be kept"
)


# -- background work ---------------------------------------------------------------------------------------------
TOKENHUB_JOBS = ENV.read("TOKENHUB_JOBS", "process", one_of("process", "celery"), "who runs background jobs")
TOKENHUB_PRICE_UPDATES = ENV.read(
    "TOKENHUB_PRICE_UPDATES", "show", one_of("show", "apply"), "what becomes of new prices in the catalogue"
)


# -- the admin API -----------------------------------------------------------------------------------------------
def _visible(raw: str) -> str:
    if not raw.isascii() or not raw.isprintable() or " " in raw:
        raise ValueError("a token takes visible ASCII characters only")
    return raw


TOKENHUB_ADMIN_TOKEN = ENV.read(
    "TOKENHUB_ADMIN_TOKEN", "", _visible, "bearer token of the admin API", shown="generated"
)


def _home(raw: str) -> Path:
    return Path(os.path.expanduser(raw))


# -- vault -------------------------------------------------------------------------------------------------------
TOKENHUB_VAULT_PASSWORD = ENV.read("TOKENHUB_VAULT_PASSWORD", "", str, "opens the vault at start")
TOKENHUB_VAULT_AUTOLOCK_MINUTES = ENV.read(
    "TOKENHUB_VAULT_AUTOLOCK_MINUTES",
    0 if TOKENHUB_VAULT_PASSWORD else 30,
    whole(maximum=525_600),
    "without a credential's use until the vault locks; 0: never",
    shown="30; 0 with a vault password",
)

TOKENHUB_CREDENTIALS_FILE = ENV.read(
    "TOKENHUB_CREDENTIALS_FILE",
    _home("~/.tokenhub/credentials"),
    _home,
    "providers, credentials and models that are made at the start",
    shown="~/.tokenhub/credentials",
)

# -- webhooks ----------------------------------------------------------------------------------------------------
TOKENHUB_WEBHOOK_NETWORKS = ENV.read(
    "TOKENHUB_WEBHOOK_NETWORKS", NO_WORDS, networks, "private networks that webhooks may be sent to", shown=""
)

# -- Temporal ----------------------------------------------------------------------------------------------------
TOKENHUB_TEMPORAL_ENABLED = ENV.read(
    "TOKENHUB_TEMPORAL_ENABLED", False, boolean, "whether Temporal drives plans", shown="false"
)
TOKENHUB_TEMPORAL_CHAT = ENV.read(
    "TOKENHUB_TEMPORAL_CHAT", False, boolean, "whether it drives POST /v1/chat, too", shown="false"
)
TOKENHUB_TEMPORAL_HOST = ENV.read("TOKENHUB_TEMPORAL_HOST", "localhost:7233", address, "HOST:PORT of its frontend")
TOKENHUB_TEMPORAL_NAMESPACE = ENV.read("TOKENHUB_TEMPORAL_NAMESPACE", "default", str, "namespace of the workflows")
TOKENHUB_TEMPORAL_TASK_QUEUE = ENV.read(
    "TOKENHUB_TEMPORAL_TASK_QUEUE", "tokenhub-tasks", str, "queue that manage.py temporal_worker works on"
)

# -- traces ------------------------------------------------------------------------------------------------------
TOKENHUB_OTEL_ENABLED = ENV.read(
    "TOKENHUB_OTEL_ENABLED", False, boolean, "whether requests are traced by OpenTelemetry", shown="false"
)
TOKENHUB_OTEL_ENDPOINT = ENV.read(
    "TOKENHUB_OTEL_ENDPOINT",
    "http://localhost:4318/v1/traces",
    collector,
    "collector that takes OTLP over HTTP",
    shown="localhost:4318",
)
TOKENHUB_OTEL_SERVICE_NAME = ENV.read("TOKENHUB_OTEL_SERVICE_NAME", "tokenhub", str, "service.name of the spans")
# -- what is kept ------------------------------------------------------------------------------------------------
TOKENHUB_LOG_RETENTION_DAYS = ENV.read(
    "TOKENHUB_LOG_RETENTION_DAYS", 90, whole(0, 36_500), "days that requests stay in the request log; 0: for ever"
)
TOKENHUB_LOG_MAX_ROWS = ENV.read(
    "TOKENHUB_LOG_MAX_ROWS", 0, whole(0), "requests in the request log, the newest; 0: any number"
)

# -- logs --------------------------------------------------------------------------------------------------------
TOKENHUB_LOG_LEVEL = ENV.read(
    "TOKENHUB_LOG_LEVEL", "info", one_of("debug", "info", "warning", "error"), "least severe line that is logged"
)
TOKENHUB_LOG_FORMAT = ENV.read(
    "TOKENHUB_LOG_FORMAT",
    "console" if sys.stderr.isatty() else "json",
    one_of("console", "json"),
    "shape of a log line",
    shown="console on a terminal, else json",
)


# -- Django ------------------------------------------------------------------------------------------------------
def _sqlite_url() -> str:
    return f"sqlite:///{TOKENHUB_DATA_DIR / 'tokenhub.sqlite3'}"


def _database(raw: str) -> dict[str, Any]:
    parts = urlsplit(raw)
    match parts.scheme:
        case "sqlite":
            if len(parts.path) < 2:
                raise ValueError("a SQLite address is sqlite:///relative/path or sqlite:////absolute/path")
            return {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": unquote(parts.path[1:]),
                "OPTIONS": {
                    "timeout": 20,
                    "transaction_mode": "IMMEDIATE",
                    "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA temp_store=MEMORY",
                },
            }
        case "postgres" | "postgresql":
            return {
                "ENGINE": "django.db.backends.postgresql",
                "NAME": unquote(parts.path.lstrip("/")) or "tokenhub",
                "USER": unquote(parts.username or ""),
                "PASSWORD": unquote(parts.password or ""),
                "HOST": parts.hostname or "",
                "PORT": str(parts.port or ""),
                "CONN_MAX_AGE": 60,
                "CONN_HEALTH_CHECKS": True,
            }
    raise ValueError("the scheme is neither sqlite nor postgres")


DATABASES = {
    "default": ENV.read(
        "TOKENHUB_DATABASE_URL",
        _database(_sqlite_url()),
        _database,
        "postgres://USER:PASSWORD@HOST/NAME",
        shown="SQLite in the data folder",
    )
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"


def _data_dir() -> Path:
    """The data folder, made with mode 0700. A folder that cannot be made is reported by `check` and by `serve`."""
    try:
        TOKENHUB_DATA_DIR.mkdir(mode=0o700, parents=True, exist_ok=True)
        (TOKENHUB_DATA_DIR / "static").mkdir(mode=0o700, exist_ok=True)
    except OSError as problem:
        ENV.problems.append(("TOKENHUB_DATA_DIR", f"{TOKENHUB_DATA_DIR} cannot be made ({problem})"))
    return TOKENHUB_DATA_DIR


def _secret_key() -> str:
    """Django's secret, made once and kept in the data folder with mode 0600."""
    path = _data_dir() / "django_secret"
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        pass
    fresh = secrets.token_urlsafe(50)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text(encoding="ascii").strip()
    except OSError as problem:
        ENV.problems.append(("TOKENHUB_DATA_DIR", f"the Django secret cannot be kept there ({problem})"))
        return fresh
    with os.fdopen(descriptor, "w") as file:
        file.write(fresh)
    return fresh


SECRET_KEY = (
    ENV.read("TOKENHUB_SECRET_KEY", "", str, "Django's secret", shown="made in the data folder") or _secret_key()
)

INSTALLED_APPS = [
    # `runserver` speaks ASGI through daphne; elsewhere its Twisted would cost half a second and 25 MB for nothing
    *(["daphne"] if "runserver" in sys.argv[1:2] else []),
    "unfold",
    "unfold.contrib.filters",
    "django.contrib.admin.apps.SimpleAdminConfig",  # its pages are loaded with the URLs: not before somebody comes
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "channels",
    "axes",
    "django_prometheus",
    "telemetry",
    "vault",
    "keys",
    "providers",
    "routing",
    "orchestration",
    "tokenhub",
]
MIDDLEWARE = [
    "tokenhub.middleware.RequestIds",
    "django_prometheus.middleware.PrometheusBeforeMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "tokenhub.content_policy.ContentPolicy",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "tokenhub.middleware.LoginAsPage",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "axes.middleware.AxesMiddleware",
    "tokenhub.middleware.DatabaseAway",
    "django_prometheus.middleware.PrometheusAfterMiddleware",
]
ROOT_URLCONF = "tokenhub.urls"
LOGIN_REDIRECT_URL = "/admin/"  # where a login that came from nowhere ends; Django's own names no page of ours
ASGI_APPLICATION = "tokenhub.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
# Wrong passwords: ten of one name from one address lock that pair out for a quarter of an hour. Other addresses may go
# on, so that nobody can lock an operator out from elsewhere.
AUTHENTICATION_BACKENDS = ["axes.backends.AxesStandaloneBackend", "django.contrib.auth.backends.ModelBackend"]
AXES_FAILURE_LIMIT = 10
AXES_COOLOFF_TIME = timedelta(minutes=15)
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_RESET_ON_SUCCESS = True
AXES_CLIENT_IP_CALLABLE = "tokenhub.admin_token.address_of"
AXES_USERNAME_CALLABLE = "tokenhub.login.counted_name"
AXES_LOCKOUT_CALLABLE = "tokenhub.views.locked_out"
AXES_DISABLE_ACCESS_LOG = True  # the audit log has logins
AXES_ENABLE_ADMIN = False
AXES_VERBOSE = False

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
LANGUAGE_CODE = "en-us"
TIME_ZONE = TOKENHUB_TIME_ZONE
USE_TZ = True

STATIC_URL = "/static/"
STATICFILES_DIRS = [BASE_DIR / "static"]
STATIC_ROOT = TOKENHUB_DATA_DIR / "static"
WHITENOISE_USE_FINDERS = True  # nothing to collect before the first page; a deployment may still collect
WHITENOISE_AUTOREFRESH = False

_public = urlsplit(TOKENHUB_PUBLIC_URL)
_SECURE = _public.scheme == "https"
ALLOWED_HOSTS = [_public.hostname] if _public.hostname else []
ALLOWED_HOSTS += ["127.0.0.1", "localhost", "[::1]", TOKENHUB_LISTEN_ADDR.rpartition(":")[0]]
CSRF_TRUSTED_ORIGINS = [f"{_public.scheme}://{_public.netloc}"] if _public.netloc else []
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = _SECURE
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_AGE = 43_200  # twelve hours
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if _SECURE and TOKENHUB_TRUSTED_PROXIES else None
DATA_UPLOAD_MAX_NUMBER_FIELDS = 5_000  # the set-up's list of models: up to ten for each that is ticked
SILENCED_SYSTEM_CHECKS = [
    "security.W004",  # HSTS belongs to the proxy that ends TLS
    "security.W008",  # so does the redirect to https
    "security.W012",  # secure cookies follow TOKENHUB_PUBLIC_URL: on plain http they would lock everybody out
    "security.W016",  # the same, for the CSRF cookie
]

# -- logins by others, and second factors: an extra ---------------------------------------------------------------
TOKENHUB_OIDC_ISSUER = ENV.read("TOKENHUB_OIDC_ISSUER", "", issuer, "the OpenID Connect provider that logs people in")
TOKENHUB_OIDC_CLIENT_ID = ENV.read("TOKENHUB_OIDC_CLIENT_ID", "", str, "TokenHub's name at that provider")
TOKENHUB_OIDC_CLIENT_SECRET = ENV.read("TOKENHUB_OIDC_CLIENT_SECRET", "", str, "and its secret there")
TOKENHUB_OIDC_TITLE = ENV.read("TOKENHUB_OIDC_TITLE", "Single sign-on", str, "what the login page calls it")
TOKENHUB_OIDC_GROUPS_CLAIM = ENV.read(
    "TOKENHUB_OIDC_GROUPS_CLAIM", "groups", str, "the claim that holds people's groups"
)
TOKENHUB_OIDC_ROLES: dict[str, str] = ENV.read(
    "TOKENHUB_OIDC_ROLES", {}, pairs, "which group of theirs has which role here", shown=""
)
TOKENHUB_SECOND_FACTOR = ENV.read(
    "TOKENHUB_SECOND_FACTOR", False, boolean, "whether people may ask for a second factor at their login", shown="false"
)
SSO = bool(TOKENHUB_OIDC_ISSUER) or TOKENHUB_SECOND_FACTOR
if SSO and find_spec("allauth") is None:
    SSO = False
    ENV.problems.append(("TOKENHUB_OIDC_ISSUER", "the extra is not installed: pip install 'tokenhub[sso]'"))
if SSO:
    INSTALLED_APPS += [*sso_settings.APPS, *(["allauth.mfa"] if TOKENHUB_SECOND_FACTOR else [])]
    MIDDLEWARE += [sso_settings.MIDDLEWARE]
    AUTHENTICATION_BACKENDS += [sso_settings.BACKEND]
    TEMPLATES[0]["OPTIONS"]["context_processors"] += [sso_settings.CONTEXT]  # type: ignore[index]
    globals().update(
        sso_settings.allauth(
            issuer=TOKENHUB_OIDC_ISSUER, client_id=TOKENHUB_OIDC_CLIENT_ID, secret=TOKENHUB_OIDC_CLIENT_SECRET,
            title=TOKENHUB_OIDC_TITLE, secure=_SECURE,
        )
    )  # fmt: skip

from tokenhub.unfold import UNFOLD  # noqa: E402  the menu is data of its own

if SSO and TOKENHUB_SECOND_FACTOR:
    UNFOLD["ACCOUNT"] = {"navigation": [{"title": "Second factor", "link": "/accounts/2fa/"}]}

# the admin API; what its views have in common is in tokenhub/apikit.py
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["tokenhub.apiauth.AdminToken", "tokenhub.apiauth.StaffSession"],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAdminUser"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "tokenhub.apierrors.answer",
}
SPECTACULAR_SETTINGS = {
    "ENUM_NAME_OVERRIDES": {
        "PriceSourceEnum": "routing.models.PriceSource",
        "DeliveryStateEnum": "telemetry.models.DeliveryState",
        "HealthStateEnum": "routing.serializers.STATES",
    },
    "OAS_VERSION": "3.1.1",
    "TITLE": "TokenHub admin API",
    "DESCRIPTION": "Providers, models, client keys, the vault, and what happened.",
    "VERSION": VERSION,
    "SCHEMA_PATH_PREFIX": "/admin/v1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PUBLIC": True,
    "COMPONENT_SPLIT_REQUEST": True,
    "SWAGGER_UI_DIST": "SIDECAR",  # from our own static files: no page of ours loads a stranger's script
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "tokenhub.apischema.finish",
    ],
}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "plain": {
            "()": "telemetry.logs.Formatter",
            "shape": TOKENHUB_LOG_FORMAT,
            "secrets": [
                SECRET_KEY,
                TOKENHUB_ADMIN_TOKEN,
                TOKENHUB_METRICS_TOKEN,
                TOKENHUB_OIDC_CLIENT_SECRET,
                TOKENHUB_VAULT_PASSWORD,
                DATABASES["default"].get("PASSWORD", ""),
                urlsplit(TOKENHUB_REDIS_URL).password or "",
            ],
        }
    },
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "plain"}},
    "root": {"handlers": ["stderr"], "level": TOKENHUB_LOG_LEVEL.upper()},
    "loggers": {
        "httpx": {"level": "WARNING"},
        "httpcore": {"level": "WARNING"},
        "opentelemetry": {"level": "CRITICAL"},
    },
}
