"""Fills an empty shop with a small catalogue, and tops up the stock of one that has it."""

from typing import Any

from django.core.management.base import BaseCommand

from inventory.catalogue import seed_catalogue


class Command(BaseCommand):
    help = "Make the demo catalogue (12 products) and top its stock up. Can be run again at any time."

    def handle(self, *args: Any, **options: Any) -> None:
        made, received = seed_catalogue()
        self.stdout.write(f"{made} products made, {received} units received")
