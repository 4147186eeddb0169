"""`manage.py create_api_key`: the key on stdout and nothing else, and an exit code that scripts can go by."""

import os
import re
import subprocess
import sys
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from orders.clients import find_key
from orders.models import ApiClient, ApiKey, Scope
from tests.processes import PROJECT, build_environment


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command as a person runs it."""
    return subprocess.run(
        [sys.executable, "manage.py", "create_api_key", *arguments],
        cwd=PROJECT,
        env={**os.environ, **build_environment()},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def make(*arguments: str) -> str:
    out = StringIO()
    call_command("create_api_key", *arguments, stdout=out)
    return out.getvalue()


def test_only_the_key_is_on_stdout_and_it_works(transactional_db: None) -> None:
    done = run("web shop")
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"odk_[A-Za-z0-9_-]{43}\n", done.stdout)
    secret = done.stdout.strip()
    assert secret not in done.stderr
    key = find_key(secret)
    assert key is not None
    assert (key.client.name, key.name, key.scopes) == ("web shop", "command line", Scope.values)
    assert str(key) in done.stderr
    assert key.created_by is None


def test_a_mistake_in_the_arguments_is_2_and_a_refusal_1_with_nothing_on_stdout(
    transactional_db: None,
) -> None:
    ApiClient.objects.create(name="off", is_active=False)
    for arguments, code, told in (
        ([], 2, "required: client"),
        (["shop", "--scope", "all"], 2, "invalid choice: 'all'"),
        (["  "], 2, "A client's name has 1 to 100 characters."),
        (["off"], 1, "off is switched off"),
    ):
        done = run(*arguments)
        assert (done.returncode, done.stdout) == (code, ""), arguments
        assert told in done.stderr
        assert "Traceback" not in done.stderr
    assert not ApiKey.objects.exists()


def test_a_client_gets_further_keys_with_the_scopes_that_are_named(db: None) -> None:
    make("shop")
    make(" shop ", "--name", "till 2", "--scope", "place", "--scope", "read", "--scope", "read")
    client = ApiClient.objects.get()
    assert [(key.name, key.scopes) for key in client.keys.order_by("pk")] == [
        ("command line", Scope.values),
        ("till 2", ["read", "place"]),
    ]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["x" * 101], "A client's name has 1 to 100 characters."),
        (["a\x07b"], "no control characters"),
        (["shop", "--name", ""], "A key's name has 1 to 100 characters."),
        (["shop", "--name", "x" * 101], "A key's name has 1 to 100 characters."),
    ],
)
def test_a_name_that_cannot_be_kept_is_refused(db: None, arguments: list[str], told: str) -> None:
    with pytest.raises(CommandError, match=told) as refused:
        make(*arguments)
    assert refused.value.returncode == 2
    assert not ApiClient.objects.exists()


def test_without_its_tables_it_says_what_to_do(db: None) -> None:
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE orders_apiclient RENAME TO elsewhere")
    with pytest.raises(CommandError, match=r"run `manage.py migrate` first") as refused:
        make("shop")
    assert refused.value.returncode == 1
