"""The admin's forms: placing an order, and the reasons people give."""

from collections.abc import Iterable, Sequence
from typing import Any, cast
from uuid import uuid4

from django import forms
from django.conf import settings
from django.contrib.admin.widgets import AdminEmailInputWidget, AdminTextareaWidget, AdminTextInputWidget

from inventory.models import Product
from orders.models import STEP_OF_UNDO, Order, OrderQuerySet
from orders.services import MAX_LINES, InvalidOrder, Item

TOKEN_HELP = (
    "Empty means tok_ok. In the sandbox tok_ok pays and tok_declined is declined."
    if settings.EMBEDDED
    else "The payment gateway's token, never a card number."
)


class PlaceOrderForm(forms.Form):
    # Names the order before it exists, so that sending the form twice places one order.
    order_id = forms.UUIDField(required=False, widget=forms.HiddenInput, initial=uuid4)
    customer_email = forms.EmailField(max_length=254, label="Customer's e-mail", widget=AdminEmailInputWidget)
    payment_token = forms.CharField(
        max_length=200, required=False, widget=AdminTextInputWidget, help_text=TOKEN_HELP
    )


class LineForm(forms.Form):
    sku = forms.ChoiceField(label="Product")
    quantity = forms.IntegerField(initial=1, min_value=1)

    def __init__(self, *args: Any, choices: Sequence[tuple[str, str]], **options: Any) -> None:
        super().__init__(*args, **options)
        cast("forms.ChoiceField", self.fields["sku"]).choices = choices


LineFormSet = forms.formset_factory(LineForm, extra=3, max_num=MAX_LINES)


def describe_products(products: Iterable[Product]) -> list[tuple[str, str]]:
    """What a line can choose from: name, SKU, price and what is available."""
    return [
        ("", "Choose a product"),
        *(
            (
                product.sku,
                f"{product.name} ({product.sku}): {product.price} {settings.SHOP_CURRENCY}, "
                f"{product.stock.available if hasattr(product, 'stock') else 0} available",
            )
            for product in products
        ),
    ]


def list_filled(lines: "forms.BaseFormSet[LineForm]") -> list[LineForm]:
    """The lines somebody filled in."""
    return [line for line in lines if line.has_changed()]


def read_items(lines: "forms.BaseFormSet[LineForm]") -> list[Item]:
    """The valid lines as the desk takes them."""
    return [Item(line.cleaned_data["sku"], line.cleaned_data["quantity"]) for line in list_filled(lines)]


def show_errors(form: PlaceOrderForm, lines: "forms.BaseFormSet[LineForm]", invalid: InvalidOrder) -> None:
    """Put the desk's refusal beside the fields it is about."""
    filled = list_filled(lines)
    for field, message in invalid.errors.items():
        match field.split("."):
            case ["items", index, name]:
                filled[int(index)].add_error(name, message)
            case ["items"]:
                lines.non_form_errors().append(message)
            case _:
                form.add_error(field, message)


class CancelForm(forms.Form):
    orders = forms.ModelMultipleChoiceField(Order.objects.none(), widget=forms.MultipleHiddenInput)
    reason = forms.CharField(
        max_length=1000,
        widget=AdminTextareaWidget(attrs={"rows": 3}),
        help_text="Kept with the order. The customer does not see it.",
    )

    def __init__(self, *args: Any, queryset: OrderQuerySet, **options: Any) -> None:
        super().__init__(*args, **options)
        cast("forms.ModelMultipleChoiceField[Order]", self.fields["orders"]).queryset = queryset


class UndoForm(forms.Form):
    undo = forms.ChoiceField(choices=[(undo, undo) for undo in STEP_OF_UNDO], widget=forms.HiddenInput)


class AcknowledgeForm(forms.Form):
    subject = forms.CharField(max_length=60, widget=forms.HiddenInput)
    reason = forms.CharField(
        max_length=1000,
        widget=AdminTextareaWidget(attrs={"rows": 3}),
        help_text="What you found, and what was done about it.",
    )


class ResolveForm(UndoForm):
    reason = forms.CharField(
        max_length=1000, widget=AdminTextareaWidget(attrs={"rows": 3}), help_text="What you did instead."
    )
    reference = forms.CharField(
        max_length=200,
        widget=AdminTextInputWidget,
        help_text="Where it can be found: the number of a bank transfer, a voucher, a ticket.",
    )
