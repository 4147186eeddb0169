"""Admin: products to edit, stock to book, holds and the stock ledger to read."""

from django.contrib import admin

from inventory.admin.ledger import HoldAdmin, StockMovementAdmin
from inventory.admin.product import ProductAdmin
from inventory.models import Hold, Product, StockMovement

admin.site.register(Product, ProductAdmin)
admin.site.register(Hold, HoldAdmin)
admin.site.register(StockMovement, StockMovementAdmin)
