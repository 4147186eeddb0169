"""The settings. Every variable of the environment that they read is in the README's configuration table."""

import os
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

from csp.constants import NONE, SELF
from django.core.exceptions import ImproperlyConfigured

from config.environment import read_amount, read_count, read_database, read_flag, read_list, read_seconds

BASE_DIR = Path(__file__).resolve().parent.parent


# True on a developer's machine, where manage.py has started the services itself.
EMBEDDED = read_flag("ORDER_DESK_EMBEDDED", default=False)

# Empty is refused by Django at first use: commands that sign nothing need no key.
SECRET_KEY = os.environ.get("DJANGO_SECRET_KEY", "")
# Keys of before: what was signed with them, such as links to orders and sessions, still counts.
SECRET_KEY_FALLBACKS = read_list("DJANGO_SECRET_KEY_FALLBACKS")
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
    "django_filters",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "csp",
    "config.apps.LogInsConfig",
    "orders",
    "inventory",
    "payments",
    "notifications",
]

MIDDLEWARE = [
    # Before everything, so that all that is logged about a request has its id.
    "config.requests.name_request",
    # Around all that can fail: every error of the API is a problem document.
    "orders.api.middleware.answer_api_problems",
    # Early, so that redirects and static files have the headers, too.
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
SESSION_ENGINE = "config.sessions"
SESSION_COOKIE_SECURE = HTTPS
CSRF_COOKIE_SECURE = HTTPS
if HTTPS:
    SESSION_COOKIE_NAME = "__Host-sessionid"
    CSRF_COOKIE_NAME = "__Host-csrftoken"
BEHIND_PROXY = read_flag("DJANGO_BEHIND_PROXY", default=False)
if BEHIND_PROXY:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
CSRF_FAILURE_VIEW = "orders.storefront.errors.show_csrf_failure"
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
    "DEFAULT_AUTHENTICATION_CLASSES": ["orders.api.authentication.KeyAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["orders.api.authentication.HasScope"],
    "UNAUTHENTICATED_USER": None,
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["orders.api.parsers.StrictJSONParser"],
    "DEFAULT_METADATA_CLASS": "orders.api.options.NoMetadata",
    "DEFAULT_SCHEMA_CLASS": "orders.api.schema.DeskSchema",
    "EXCEPTION_HANDLER": "orders.api.errors.answer_problem",
    "LIST_SERIALIZER_ERRORS_AS_DICT": True,
    # An answer's form is asked for by Accept alone.
    "URL_FORMAT_OVERRIDE": None,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Order Desk API",
    "VERSION": "1",
    # Markdown, kept beside the code it describes.
    "DESCRIPTION": (BASE_DIR / "orders" / "api" / "description.md").read_text(),
    "OAS_VERSION": "3.1.0",
    "SCHEMA_PATH_PREFIX": "/api/v1",
    "COMPONENT_SPLIT_REQUEST": True,
    "ENUM_GENERATE_CHOICE_DESCRIPTION": False,
    "ENUM_NAME_OVERRIDES": {
        "OrderStatus": "orders.models.OrderStatus",
        "StepState": "orders.models.StepState",
        "StepKind": "orders.models.StepKind",
        "PaymentState": "payments.models.PaymentState",
        "EmailState": "notifications.models.EmailState",
        "EmailKind": "notifications.models.EmailKind",
    },
    "SORT_OPERATION_PARAMETERS": False,
    "SERVE_INCLUDE_SCHEMA": False,
    "PREPROCESSING_HOOKS": ["orders.api.schema.list_paths"],
}

# --- the API ---
# Seconds for which an Idempotency-Key is remembered at least; clients rely on a day.
IDEMPOTENCY_KEEP = float(os.environ.get("IDEMPOTENCY_KEEP", "86400"))
if not IDEMPOTENCY_KEEP >= 86400:
    raise ImproperlyConfigured("IDEMPOTENCY_KEEP must be at least 86400 seconds: the API promises a day.")
# Requests that may wait for an order at once (Prefer: wait) in each web process. Each keeps one of its
# threads, so that this should be half of them at most.
API_LONG_POLLS = int(os.environ.get("API_LONG_POLLS", "4"))

# Requests a minute: of each client that has no number of its own, and of each address whose requests show
# no valid key. 0: no limit.
API_REQUESTS_PER_MINUTE = read_count("API_REQUESTS_PER_MINUTE", default="600")
API_ANONYMOUS_REQUESTS_PER_MINUTE = read_count("API_ANONYMOUS_REQUESTS_PER_MINUTE", default="120")

# --- the shop ---
# Orders a minute from one address, declined ones and repeats of a form included; 0: no limit.
SHOP_ORDERS_PER_MINUTE = read_count("SHOP_ORDERS_PER_MINUTE", default="30")
SHOP_NAME = os.environ.get("SHOP_NAME", "Order Desk")
# Where customers reach the shop, for links in mails: https://shop.example. Empty: mails carry no link.
SHOP_URL = os.environ.get("SHOP_URL", "").rstrip("/")
if SHOP_URL and not SHOP_URL.startswith(("https://", "http://")):
    raise ImproperlyConfigured(f"SHOP_URL begins with https:// (or http://); {SHOP_URL!r} does not.")
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
# Until then a message is left to the worker that hears of it (orders.listening).
OUTBOX_FIRST_LEASE = 5.0 if OUTBOX_FAST_PATH else 0.0
OUTBOX_LEASE = 30.0
OUTBOX_POLL_INTERVAL = float(os.environ.get("OUTBOX_POLL_INTERVAL", "0.5"))
OUTBOX_RETRY_MAXIMUM = 10.0
OUTBOX_ATTENTION_AFTER = float(os.environ.get("OUTBOX_ATTENTION_AFTER", "60"))

# --- repair of lost sagas (seconds) ---
# How often sagas are looked for that Temporal has lost; 0: never.
REPAIR_INTERVAL = float(os.environ.get("REPAIR_INTERVAL", "60"))
# How long an order on its way must have shown no sign. Longer than an attempt can take: what the lost saga
# had under way is over by then.
REPAIR_AFTER = float(os.environ.get("REPAIR_AFTER", "30"))
if REPAIR_INTERVAL < 0:
    raise ImproperlyConfigured("REPAIR_INTERVAL must be above 0, or 0 for never.")
if REPAIR_AFTER <= SAGA_ATTEMPT_TIMEOUT:
    raise ImproperlyConfigured("REPAIR_AFTER must be above SAGA_ATTEMPT_TIMEOUT: raise both together.")

# --- housekeeping: what is deleted when it has served its time (seconds) ---
HOUSEKEEPING_INTERVAL = read_seconds("HOUSEKEEPING_INTERVAL", default="600")

# --- the auditor (seconds) ---
# Between the audits that Temporal's schedule starts; 0: none.
AUDIT_INTERVAL = read_count("AUDIT_INTERVAL", default="3600")
# On: they also compare the payments with the gateway's own ledger, line by line.
AUDIT_GATEWAY = read_flag("AUDIT_GATEWAY", default=False)
# For how long their results are kept.
AUDIT_KEEP = float(os.environ.get("AUDIT_KEEP", "2592000"))
if not AUDIT_KEEP >= 3600:
    raise ImproperlyConfigured(
        "AUDIT_KEEP must be at least 3600 seconds: the work queue shows the latest result."
    )
# Only orders that have not changed for so long are compared with what Temporal and the gateway say.
AUDIT_QUIET_FOR = 60.0

# --- webhooks out (seconds) ---
# On: also http://, and addresses of the own network. Clients could then have our workers call what only
# they can reach.
WEBHOOK_ALLOW_PRIVATE = read_flag("WEBHOOK_ALLOW_PRIVATE", default=False)
WEBHOOK_TIMEOUT = read_seconds("WEBHOOK_TIMEOUT", default="10")
# Outlasts an attempt and its record, so that nobody else sends what is being sent.
WEBHOOK_LEASE = WEBHOOK_TIMEOUT * 3
WEBHOOK_RETRY_INITIAL = read_seconds("WEBHOOK_RETRY_INITIAL", default="5")
WEBHOOK_RETRY_MAXIMUM = read_seconds("WEBHOOK_RETRY_MAXIMUM", default="3600")
WEBHOOK_GIVE_UP_AFTER = read_seconds("WEBHOOK_GIVE_UP_AFTER", default="259200")
# Days after its last attempt for which a delivery that has ended is kept.
WEBHOOK_KEEP = read_count("WEBHOOK_KEEP", default="90")
if WEBHOOK_KEEP < 7:
    raise ImproperlyConfigured("WEBHOOK_KEEP must be at least 7 days.")
if WEBHOOK_RETRY_INITIAL > WEBHOOK_RETRY_MAXIMUM:
    raise ImproperlyConfigured("WEBHOOK_RETRY_INITIAL must not be above WEBHOOK_RETRY_MAXIMUM.")
if WEBHOOK_GIVE_UP_AFTER >= WEBHOOK_KEEP * 86400:
    raise ImproperlyConfigured(
        "WEBHOOK_GIVE_UP_AFTER (seconds) must be below WEBHOOK_KEEP (days): give up sooner, or keep longer."
    )

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
    "formatters": {"line": {"format": "{asctime} {levelname} {name}{request_note} {message}", "style": "{"}},
    "filters": {
        "request": {"()": "config.requests.RequestIdFilter"},
        "links": {"()": "config.access_log.LinkFilter"},
    },
    "handlers": {
        "console": {"class": "logging.StreamHandler", "formatter": "line", "filters": ["request", "links"]}
    },
    "root": {"handlers": ["console"], "level": os.environ.get("LOG_LEVEL", "INFO")},
    "loggers": {
        "axes": {"level": "WARNING"},
        "httpx": {"level": "WARNING"},
        "temporalio.activity": {"level": "ERROR"},
    },
}
