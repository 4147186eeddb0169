"""Admin: every mail as it was sent, to be read as text and as the customer's mail reader shows it."""

from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.urls import URLPattern, path
from django.utils.html import format_html
from django.utils.safestring import SafeString

from config.admin import ReadOnlyAdmin
from notifications.models import EmailMessage

# The mail is shown to us as to a stranger: it may bring its own look and nothing else.
MAIL_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox; frame-ancestors 'self'"


@admin.register(EmailMessage)
class EmailMessageAdmin(ReadOnlyAdmin):
    list_display = ["subject", "recipient", "order", "kind", "state", "sent_at"]
    list_filter = ["kind", "state"]
    list_select_related = ["order"]
    search_fields = ["=order__number", "recipient", "=message_id"]
    search_help_text = "Order number, recipient or Message-ID"
    date_hierarchy = "created_at"
    ordering = ["-pk"]
    change_form_template = "admin/notifications/emailmessage/mail.html"
    fields = [
        "order",
        "kind",
        "sent_by",
        "status",
        "recipient",
        "subject",
        "message_id",
        "created_at",
        "sent_at",
    ]
    readonly_fields = ["sent_by", "status"]

    def get_urls(self) -> list[URLPattern]:
        show = self.admin_site.admin_view(self.show_html)
        return [
            path("<int:pk>/html/", show, name="notifications_emailmessage_html"),
            *super().get_urls(),
        ]

    def show_html(self, request: HttpRequest, pk: int) -> HttpResponse:
        """The mail's HTML on its own, for the frame of its page. 404 if there is none, 403 if it may not be
        seen."""
        if request.method not in ("GET", "HEAD"):
            return HttpResponseNotAllowed(["GET", "HEAD"])
        if not self.has_view_permission(request):
            raise PermissionDenied
        email = EmailMessage.objects.filter(pk=pk).first() if pk < 2**63 else None
        if email is None:
            raise Http404("There is no such mail.")
        headers = {"Content-Security-Policy": MAIL_POLICY, "X-Frame-Options": "SAMEORIGIN"}
        return HttpResponse(email.html, headers=headers)

    @admin.display(description="Sent by")
    def sent_by(self, email: EmailMessage) -> str:
        if email.copy:
            return f"a person, who had it sent again (copy {email.copy})"
        return "the order's saga"

    @admin.display(description="State", ordering="state")
    def status(self, email: Any) -> SafeString:
        return format_html(
            '<span class="od-badge od-{}">{}</span>', email.state, email.get_state_display().lower()
        )
