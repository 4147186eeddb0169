"""The admin's forms: placing an order, and the reasons people give."""

from uuid import uuid4

from django import forms
from django.conf import settings
from django.contrib.admin.widgets import AdminEmailInputWidget, AdminTextInputWidget

from orders.services import MAX_LINES, MAX_QUANTITY, InvalidOrder, Item

TOKEN_HELP = (
    "Empty means tok_ok. In the sandbox tok_ok pays and tok_declined is declined."
    if settings.EMBEDDED
    else "The payment gateway's token, never a card number."
)


class PlaceOrderForm(forms.Form):
    # Names the order before it exists, so that sending the form twice places one order.
    order_id = forms.UUIDField(required=False, widget=forms.HiddenInput, initial=uuid4)
    # The total on the page as it was sent, written by place.js. Only compared, so it may hold anything.
    shown_total = forms.Field(required=False, widget=forms.HiddenInput)
    customer_email = forms.EmailField(
        max_length=254,
        label="Customer's e-mail",
        # The customer's, never that of the person at the desk.
        widget=AdminEmailInputWidget(attrs={"autocomplete": "off"}),
    )
    payment_token = forms.CharField(
        max_length=200,
        required=False,
        widget=AdminTextInputWidget(attrs={"autocomplete": "off"}),
        help_text=TOKEN_HELP,
    )


class LineForm(forms.Form):
    # A plain field: place.js makes it a combobox, and without it the SKU is typed.
    sku = forms.CharField(
        label="Product",
        max_length=40,
        widget=forms.TextInput(
            attrs={
                "class": "place-sku",
                "autocomplete": "off",
                "autocapitalize": "characters",
                "spellcheck": "false",
                "placeholder": "SKU or name",
            }
        ),
    )
    quantity = forms.IntegerField(
        initial=1,
        min_value=1,
        max_value=MAX_QUANTITY,
        widget=forms.NumberInput(attrs={"class": "place-quantity", "inputmode": "numeric"}),
    )


LineFormSet = forms.formset_factory(LineForm, extra=3, max_num=MAX_LINES)


class ProductSearchForm(forms.Form):
    """What the combobox asks for. `q` is another name of `term`."""

    term = forms.CharField(max_length=200, required=False)
    q = forms.CharField(max_length=200, required=False)
    page = forms.IntegerField(min_value=1, max_value=10_000, required=False)


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


def list_errors(form: PlaceOrderForm, lines: "forms.BaseFormSet[LineForm]") -> list[tuple[str, str, str]]:
    """Every error as (id of the field, what it is about, message), in the order of the page."""
    parts: list[tuple[str, forms.Form]] = [("", form)]
    parts += [(f"line {number}", line) for number, line in enumerate(lines, start=1)]
    found: list[tuple[str, str, str]] = []
    for part, fields in parts:
        for name, messages in fields.errors.items():
            bound = fields[name] if name in fields.fields else None
            about = ", ".join(filter(None, [part, str(bound.label).lower() if bound and part else ""]))
            label = about.capitalize() or (str(bound.label) if bound else "")
            found += [(bound.id_for_label if bound else "", label, str(message)) for message in messages]
    return found + [("lines-group", "Lines", str(message)) for message in lines.non_form_errors()]
