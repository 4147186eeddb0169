"""Makes an API key for a client, and the client if it is missing; prints the key and nothing else."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import ProgrammingError, transaction

from orders import clients
from orders.models import ApiClient, ApiKey, Scope


class Command(BaseCommand):
    help = (
        "Make an API key for a client, and the client if there is none of that name. The key alone goes to "
        'stdout, and is never shown again: KEY=$(manage.py create_api_key "web shop").'
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("client", help='the client\'s name, for example "web shop"')
        parser.add_argument("--name", default="command line", help="where the key will be used")
        parser.add_argument(
            "--scope",
            action="append",
            choices=Scope.values,
            help="what the key may do; may be given several times (default: everything)",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        name = read_name(options["client"], "A client's", ApiClient)
        purpose = read_name(options["name"], "A key's", ApiKey)
        try:
            secret = self.make_key(name, purpose, options["scope"] or Scope.values)
        except ProgrammingError as error:
            raise CommandError(
                "The database has not the tables that this takes: run `manage.py migrate` first."
            ) from error
        self.stdout.write(secret)

    @transaction.atomic
    def make_key(self, name: str, purpose: str, scopes: list[str]) -> str:
        """The new key. For whom it is stands in the log, on stderr."""
        client = clients.open_client(name=name)
        if not client.is_active:
            raise CommandError(
                f"{client} is switched off, so its keys are refused: switch it on in the admin first."
            )
        return clients.create_key(client=client, name=purpose, scopes=scopes).secret


def read_name(text: str, whose: str, model: type[ApiClient | ApiKey]) -> str:
    """The name as it is kept. Raises CommandError for one that is empty, too long or cannot be shown."""
    longest = model._meta.get_field("name").max_length or 0
    try:
        name = clients.clean_name(text)
    except ValueError as error:
        raise CommandError(str(error), returncode=2) from error
    if not 0 < len(name) <= longest:
        raise CommandError(f"{whose} name has 1 to {longest} characters.", returncode=2)
    return name
