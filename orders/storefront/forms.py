"""The shop's forms, and what they say when something is not right."""

from uuid import UUID

from django import forms

from orders.services import MAX_QUANTITY
from orders.storefront.words import PAYMENTS

HOW_MANY = {
    "required": "Give a quantity.",
    "invalid": "A quantity is a whole number.",
    "min_value": "Order at least %(limit_value)s.",
    "max_value": f"An order takes at most {MAX_QUANTITY} of one product.",
}


class SearchForm(forms.Form):
    """What is looked for, and the page of it. What makes no sense is as good as nothing."""

    q = forms.CharField(max_length=100, required=False)
    page = forms.IntegerField(min_value=1, required=False)


class AddForm(SearchForm):
    """A product for the cart, and where in the catalogue the customer is."""

    sku = forms.CharField(max_length=40)
    quantity = forms.IntegerField(min_value=1, max_value=MAX_QUANTITY, error_messages=HOW_MANY)


class QuantityForm(forms.Form):
    """How many of a line there should be; 0 takes it out."""

    quantity = forms.IntegerField(min_value=0, max_value=MAX_QUANTITY, error_messages=HOW_MANY)


class CheckoutForm(forms.Form):
    """Who orders and how it is paid. `order_id` names the order, `seen` what the page showed of the cart."""

    order_id = forms.CharField(required=False, widget=forms.HiddenInput)
    seen = forms.CharField(required=False, widget=forms.HiddenInput)
    email = forms.EmailField(
        label="E-mail",
        max_length=254,
        help_text="Your confirmation goes there.",
        widget=forms.EmailInput(attrs={"autocomplete": "email", "spellcheck": "false"}),
        error_messages={
            "required": "Give your e-mail address, for example ada@example.com.",
            "invalid": "This is not an e-mail address. One looks like ada@example.com.",
            "max_length": "An e-mail address has at most 254 characters.",
        },
    )
    payment = forms.ChoiceField(
        label="Payment",
        choices=[(key, choice.title) for key, choice in PAYMENTS.items()],
        widget=forms.RadioSelect,
        error_messages={
            "required": "Choose how to pay.",
            "invalid_choice": "Choose one of the ways to pay.",
        },
    )

    def read_order_id(self) -> UUID | None:
        """The id the form carries; None for anything else."""
        try:
            return UUID(self.data.get("order_id", ""))
        except ValueError:
            return None

    def list_errors(self) -> list[tuple[str, str]]:
        """Every error as (id of what it is about, message), in the order of the page."""
        found: list[tuple[str, str]] = []
        for name, messages in self.errors.items():
            about = {"email": "id_email", "payment": "id_payment_0"}.get(name, "")
            found += [(about, str(message)) for message in messages]
        return found
