# One image for web, workers, migrate and the sandbox payment gateway: the command decides.
# The tag names the exact version; pin its digest as well where the build must be repeatable.

FROM python:3.11.16-slim-trixie AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/venv
COPY requirements.lock /tmp/
RUN /opt/venv/bin/pip install --only-binary :all: --require-hashes -r /tmp/requirements.lock
WORKDIR /srv/order-desk
COPY . .
# The key signs nothing here, and is in no layer of the image below.
RUN DJANGO_SECRET_KEY=only-to-collect-static-files /opt/venv/bin/python manage.py collectstatic --noinput \
    && python -m compileall -q .

FROM python:3.11.16-slim-trixie
# The gateway's volume takes over the owner of the directory it is mounted on.
RUN useradd --uid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin order-desk \
    && install --directory --owner=10001 --group=10001 --mode=0700 /var/lib/payment-gateway
COPY --from=build /opt/venv /opt/venv
COPY --from=build /srv/order-desk /srv/order-desk
WORKDIR /srv/order-desk
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
EXPOSE 8000
CMD ["gunicorn", "--config=config/gunicorn.py", "--bind=0.0.0.0:8000"]
