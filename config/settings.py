"""The only reader of the environment. Every variable is in the README's configuration table."""

import os
from datetime import timedelta
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from csp.constants import NONE, SELF
from django.core.exceptions import ImproperlyConfigured
from psycopg.conninfo import conninfo_to_dict

BASE_DIR = Path(__file__).resolve().parent.parent


def read_flag(name: str, *, default: bool) -> bool:
    """The variable as a yes or no; unset or empty means `default`."""
    value = os.environ.get(name, "")
    return value.lower() in {"1", "true", "yes", "on"} if value else default


def read_list(name: str) -> list[str]:
    """A comma-separated variable as a list without blanks."""
    return [part.strip() for part in os.environ.get(name, "").split(",") if part.strip()]


def read_amount(name: str, *, default: str) -> Decimal | None:
    """The variable as an amount of the shop's currency; empty means none."""
    value = os.environ.get(name, default)
    try:
        amount = Decimal(value) if value else None
    except InvalidOperation:
        amount = Decimal("NaN")
    if amount is not None and not (amount.is_finite() and amount >= 0):
        raise ImproperlyConfigured(f"{name} takes an amount such as {default}, or nothing; not {value!r}.")
    return amount


def read_database(url: str) -> dict[str, Any]:
    """Django's DATABASES entry for a postgresql:// URL; the dummy engine where there is none.

    Commands that touch no data (check, makemigrations, type checking) run without a database.
    """
    if not url:
        return {"ENGINE": "django.db.backends.dummy"}
    options: dict[str, Any] = dict(conninfo_to_dict(url))
    # Below the time-out of a saga's attempt: a blocked statement fails and says so, instead of holding a
    # database thread for an attempt that has been given up.
    timeout = round(float(os.environ.get("DATABASE_LOCK_TIMEOUT", "10")) * 1000)
    if timeout and "lock_timeout" not in options.get("options", ""):
        options["options"] = f"{options.get('options', '')} -c lock_timeout={timeout}".strip()
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": options.pop("dbname", ""),
        "USER": options.pop("user", ""),
        "PASSWORD": options.pop("password", ""),
        "HOST": options.pop("host", ""),
        "PORT": options.pop("port", ""),
        # Connections live in fixed threads (web threads, worker threads), so keeping them pays.
        "CONN_MAX_AGE": 600,
        "CONN_HEALTH_CHECKS": True,
        "OPTIONS": options,
    }


# True on a developer's machine, where manage.py has started the services itself.
EMBEDDED = read_flag("ORDER_DESK_EMBEDDED", default=False)

# Empty is refused by Django at first use: commands that sign nothing need no key.
SECRET_KEY = os.environ.get("DJANGO_SECRET_KEY", "")
DEBUG = read_flag("DJANGO_DEBUG", default=False)
ALLOWED_HOSTS = read_list("DJANGO_ALLOWED_HOSTS") or (["localhost", "127.0.0.1", "[::1]"] if EMBEDDED else [])
CSRF_TRUSTED_ORIGINS = read_list("DJANGO_CSRF_TRUSTED_ORIGINS")

INSTALLED_APPS = [
    "config.site.DeskAdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "rest_framework",
    "rest_framework.authtoken",
    "csp",
    "config.apps.LogInsConfig",
    "orders",
    "inventory",
    "payments",
    "notifications",
]

MIDDLEWARE = [
    # First, so that redirects and static files have the headers, too.
    "csp.middleware.CSPMiddleware",
    "config.headers.set_permissions_policy",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    # Last: it turns the answer to a wrong password into the page of a locked log-in.
    "axes.middleware.AxesMiddleware",
]

ROOT_URLCONF = "config.urls"
WSGI_APPLICATION = "config.wsgi.application"

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
            ],
        },
    },
]

DATABASES = {"default": read_database(os.environ.get("DATABASE_URL", ""))}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]

AUTHENTICATION_BACKENDS = [
    # Before the password is looked at: refuses while the log-in is locked.
    "axes.backends.AxesStandaloneBackend",
    "django.contrib.auth.backends.ModelBackend",
]

LANGUAGE_CODE = "en-gb"
# Dates and times as the admin shows them: config/formats.
FORMAT_MODULE_PATH = ["config.formats"]
TIME_ZONE = os.environ.get("TIME_ZONE", "UTC")
USE_TZ = True

STATIC_URL = "static/"
STATIC_ROOT = BASE_DIR / "staticfiles"
# Served straight from the apps while nothing was collected (a developer's machine).
WHITENOISE_USE_FINDERS = EMBEDDED
WHITENOISE_AUTOREFRESH = EMBEDDED
if not EMBEDDED:
    STORAGES = {
        "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
        "staticfiles": {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"},
    }

# Behind TLS everywhere but on a developer's machine.
HTTPS = read_flag("DJANGO_HTTPS", default=not EMBEDDED)
SECURE_SSL_REDIRECT = HTTPS
SECURE_REDIRECT_EXEMPT = [r"^healthz$", r"^readyz$"]
SECURE_HSTS_SECONDS = 31_536_000 if HTTPS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = HTTPS
SECURE_HSTS_PRELOAD = HTTPS
SESSION_COOKIE_SECURE = HTTPS
CSRF_COOKIE_SECURE = HTTPS
if HTTPS:
    SESSION_COOKIE_NAME = "__Host-sessionid"
    CSRF_COOKIE_NAME = "__Host-csrftoken"
BEHIND_PROXY = read_flag("DJANGO_BEHIND_PROXY", default=False)
if BEHIND_PROXY:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
X_FRAME_OPTIONS = "DENY"
SECURE_REFERRER_POLICY = "same-origin"
# Scripts and styles come from our own files alone: text that got into a page can run nothing.
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [SELF],
        "script-src": [SELF],
        "style-src": [SELF],
        "img-src": [SELF],
        "frame-src": [SELF],
        "object-src": [NONE],
        "base-uri": [NONE],
        "form-action": [SELF],
        "frame-ancestors": [NONE],
    }
}

# --- log-in limit (django-axes): wrong passwords for one user name from one address ---
AXES_FAILURE_LIMIT = int(os.environ.get("LOGIN_FAILURE_LIMIT", "5"))
AXES_COOLOFF_TIME = timedelta(seconds=float(os.environ.get("LOGIN_COOLOFF", "900")))
if AXES_FAILURE_LIMIT < 1 or not AXES_COOLOFF_TIME:
    raise ImproperlyConfigured("LOGIN_FAILURE_LIMIT must be at least 1, and LOGIN_COOLOFF above 0.")
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_USERNAME_CALLABLE = "config.login.find_user_name"
AXES_CLIENT_IP_CALLABLE = "config.login.find_client_address"
AXES_LOCKOUT_CALLABLE = "config.login.refuse_log_in"
AXES_RESET_ON_SUCCESS = True
# What is tried while locked is neither checked nor counted, so the lock ends when it said it would.
AXES_RESET_COOL_OFF_ON_FAILURE_DURING_LOCKOUT = False
# Only what the limit needs is kept: no log of every log-in, and nothing secret of a failed one.
AXES_DISABLE_ACCESS_LOG = True
# The log tells addresses, not names: people type passwords into the wrong field.
AXES_SENSITIVE_PARAMETERS = ["username", "csrfmiddlewaretoken"]
AXES_VERBOSE = False
AXES_ENABLE_ADMIN = False  # orders/admin/staff.py has the one page that is needed

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "rest_framework.authentication.TokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["orders.api.parsers.StrictJSONParser"],
    "EXCEPTION_HANDLER": "orders.api.errors.answer_problem",
    "LIST_SERIALIZER_ERRORS_AS_DICT": True,
}

# --- the shop ---
SHOP_NAME = os.environ.get("SHOP_NAME", "Order Desk")
SHOP_CURRENCY = os.environ.get("SHOP_CURRENCY", "EUR")
# Amounts have two places, so the currency must be one whose minor unit is a hundredth (ISO 4217).
MINOR_UNITS = Decimal(100)

# --- mail ---
EMAIL_BACKEND = os.environ.get("EMAIL_BACKEND", "django.core.mail.backends.smtp.EmailBackend")
EMAIL_HOST = os.environ.get("EMAIL_HOST", "localhost")
EMAIL_PORT = int(os.environ.get("EMAIL_PORT", "25"))
EMAIL_HOST_USER = os.environ.get("EMAIL_HOST_USER", "")
EMAIL_HOST_PASSWORD = os.environ.get("EMAIL_HOST_PASSWORD", "")
EMAIL_USE_TLS = read_flag("EMAIL_USE_TLS", default=False)
EMAIL_TIMEOUT = 10
DEFAULT_FROM_EMAIL = os.environ.get("DEFAULT_FROM_EMAIL", "orders@shop.example")
# Empty when mail goes to a real server; the address of the sink's page otherwise.
MAIL_SINK_URL = os.environ.get("MAIL_SINK_URL", "")

# --- payments ---
PAYMENT_GATEWAY_URL = os.environ.get("PAYMENT_GATEWAY_URL", "")
# Shorter than an attempt (SAGA_ATTEMPT_TIMEOUT), so that a slow gateway is an answer, not a lost attempt.
PAYMENT_GATEWAY_TIMEOUT = float(os.environ.get("PAYMENT_GATEWAY_TIMEOUT", "10"))
# What an order without a token of its own pays with: the sandbox's card that pays.
PAYMENT_DEFAULT_TOKEN = os.environ.get("PAYMENT_DEFAULT_TOKEN", "tok_ok")

# A staff cancel whose refund is above this amount needs a second person's approval; empty: never.
REFUND_APPROVAL_ABOVE = read_amount("REFUND_APPROVAL_ABOVE", default="500.00")

# --- Temporal ---
TEMPORAL_ADDRESS = os.environ.get("TEMPORAL_ADDRESS", "")
TEMPORAL_NAMESPACE = os.environ.get("TEMPORAL_NAMESPACE", "default")
TEMPORAL_UI_URL = os.environ.get("TEMPORAL_UI_URL", "")
TEMPORAL_RPC_TIMEOUT = 5.0
SAGA_TASK_QUEUE = os.environ.get("SAGA_TASK_QUEUE", "orders")

# --- sagas: what a new saga is started with (seconds); a running one keeps what it started with ---
SAGA_ATTEMPT_TIMEOUT = float(os.environ.get("SAGA_ATTEMPT_TIMEOUT", "15"))
SAGA_STEP_DEADLINE = float(os.environ.get("SAGA_STEP_DEADLINE", "86400"))
SAGA_RETRY_INITIAL = float(os.environ.get("SAGA_RETRY_INITIAL", "1"))
SAGA_RETRY_MAXIMUM = float(os.environ.get("SAGA_RETRY_MAXIMUM", "60"))
SAGA_RELEASE_AFTER = float(os.environ.get("SAGA_RELEASE_AFTER", "20"))
SAGA_EMAIL_REQUIRED = read_flag("SAGA_EMAIL_REQUIRED", default=True)
# Attempts after which a step or an undo needs a person's attention. Retrying goes on.
SAGA_ATTENTION_AFTER = int(os.environ.get("SAGA_ATTENTION_AFTER", "10"))
# Seconds without any sign of progress after which an order on its way stands in the work queue.
ATTENTION_WAITING_AFTER = float(os.environ.get("ATTENTION_WAITING_AFTER", "300"))

if SAGA_RETRY_INITIAL > SAGA_RETRY_MAXIMUM:
    raise ImproperlyConfigured("SAGA_RETRY_INITIAL must not be above SAGA_RETRY_MAXIMUM.")
if PAYMENT_GATEWAY_TIMEOUT >= SAGA_ATTEMPT_TIMEOUT:
    raise ImproperlyConfigured("PAYMENT_GATEWAY_TIMEOUT must be below SAGA_ATTEMPT_TIMEOUT.")

# --- hand-over from the database to Temporal (seconds) ---
OUTBOX_FAST_PATH = read_flag("OUTBOX_FAST_PATH", default=True)
OUTBOX_FIRST_LEASE = 5.0
OUTBOX_LEASE = 30.0
OUTBOX_POLL_INTERVAL = float(os.environ.get("OUTBOX_POLL_INTERVAL", "0.5"))
OUTBOX_RETRY_MAXIMUM = 10.0
OUTBOX_ATTENTION_AFTER = 60.0

# --- workers ---
WORKER_COUNT = int(os.environ.get("WORKER_COUNT", "4"))
WORKER_DB_THREADS = int(os.environ.get("WORKER_DB_THREADS", "8"))
WORKER_DB_WAIT = 10.0
WORKER_ACTIVITY_SLOTS = int(os.environ.get("WORKER_ACTIVITY_SLOTS", "100"))
WORKER_MAIL_THREADS = int(os.environ.get("WORKER_MAIL_THREADS", "16"))
WORKER_GRACE = float(os.environ.get("WORKER_GRACE", "20"))

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "{asctime} {levelname} {name} {message}", "style": "{"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["console"], "level": os.environ.get("LOG_LEVEL", "INFO")},
    "loggers": {
        "axes": {"level": "WARNING"},
        "httpx": {"level": "WARNING"},
        "temporalio.activity": {"level": "ERROR"},
    },
}
