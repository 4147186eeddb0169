# The few verbs of this project. `demo`, `dev` and `test` make .venv from the lock file by themselves.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.locked
# Four test processes on two cores: about half of them wait, for servers that were killed to come back.
TEST_PROCESSES ?= 4

.PHONY: setup demo dev test lint format proof bench clean

setup: $(STAMP)

$(STAMP): requirements-dev.lock
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; this is " + sys.version.split()[0] + ". Name another with: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

demo: setup
	@$(BIN)/python manage.py demo

dev: setup
	@$(BIN)/python manage.py dev

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy .
	$(BIN)/lint-imports
	$(BIN)/python manage.py makemigrations --check --dry-run
	DJANGO_SECRET_KEY=$$($(BIN)/python -c 'import secrets; print(secrets.token_urlsafe(64))') \
	DJANGO_ALLOWED_HOSTS=shop.example $(BIN)/python manage.py check --deploy --fail-level WARNING

test: lint
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist worksteal

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Everything we promise, tested at full size; ends with a table. Go on where it stopped: make proof ARGS=--resume
proof: setup
	@$(BIN)/python manage.py proof $(ARGS)

# Orders a second on this machine, completed and rolled back, against sagas that do nothing.
bench: setup
	@$(BIN)/python manage.py bench $(ARGS)

clean:
	rm -rf .venv .local staticfiles .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage htmlcov
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
