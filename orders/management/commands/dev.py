"""Everything the demo brings up, without orders and with auto-reload: for working on the code."""

import time
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from config.embedded import find_data_dir
from orders.management.stack import DEMO_PASSWORD, DEMO_USER, Stack, StackError, prepare_database


class Command(BaseCommand):
    help = "Start services, web and workers with auto-reload, and stay up until Ctrl-C."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--workers", type=int, default=settings.WORKER_COUNT, help="worker processes")

    def handle(self, *args: Any, **options: Any) -> None:
        if not 1 <= options["workers"] <= 64:
            raise CommandError("--workers takes a number from 1 to 64.", returncode=2)
        stack = Stack(log_dir=find_data_dir(settings.BASE_DIR) / "logs", quiet=False)
        try:
            prepare_database()
            address = stack.start_web(reload=True)
            stack.start_workers(options["workers"], shop_url=address, reload=True)
            self.stay(address, stack)
        except StackError as error:
            raise CommandError(str(error)) from error
        finally:
            stack.stop()

    def stay(self, address: str, stack: Stack) -> None:
        """Stay up until Ctrl-C, SIGTERM, or the death of a child or the local services."""
        try:
            self.stdout.write(f"\n  {address}/   the shop")
            self.stdout.write(f"  {address}/admin/   log in as {DEMO_USER} / {DEMO_PASSWORD}")
            self.stdout.write(f"  Temporal UI  {settings.TEMPORAL_UI_URL}   Mail  {settings.MAIL_SINK_URL}\n")
            while not (dead := stack.find_dead()):
                time.sleep(0.5)
        except KeyboardInterrupt:
            self.stdout.write("")
            return
        raise StackError(dead)
