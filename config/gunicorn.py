"""How gunicorn serves the site: the one place, for the image, Compose, `demo` and the tests.

The names are gunicorn's. It is a settings file and imports nothing; the address is given on the command line.
How the numbers add up: docs/deployment.md, "The web process".
"""

wsgi_app = "config.wsgi"

# Loaded once, before the processes are forked: one that was killed is back at once, not after two seconds of
# loading. Nothing is connected by then: Temporal's client, which does not survive a fork, and the database's
# connections are opened by the process that first asks for them.
preload_app = True
worker_class = "gthread"
workers = 2
# A long poll holds a thread while it waits, and so does a browser's spare connection for its first seconds;
# there must be threads left for those who want an answer now. Each may hold a database connection.
threads = 12

# Seconds an idle connection is kept. It holds no thread, only a place among worker_connections. gunicorn's
# own 2 s is shorter than what proxies and HTTP clients keep connections for, so they would send requests
# into ones that are just being closed, and a POST is not sent again by itself.
keepalive = 75
worker_connections = 1000

# Seconds for what is being answered when the process is told to stop; above the longest long poll.
graceful_timeout = 25
# Seconds without a sign of life of a whole process, not of a request.
timeout = 30

# Bytes of the request line, headers, and bytes of one. Above what pages and clients send.
limit_request_line = 4094
limit_request_fields = 64
limit_request_field_size = 8190

# Writable wherever the rest is not.
worker_tmp_dir = "/tmp"  # noqa: S108
# It would lie in the home directory, which the container's account does not have.
control_socket_disable = True

accesslog = "-"
# Logs no query and no order link.
logger_class = "config.access_log.AccessLog"
# The id is the X-Request-ID of the answer: the same as in our own log lines.
access_log_format = '%(h)s "%(r)s" %(s)s %(b)s %(M)s ms request=%({x-request-id}o)s "%(a)s"'
