"""Admin of audits: what each scheduled audit of the books has found, and what its rules say."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from config.admin import ReadOnlyAdmin
from orders.admin.lists import PastDateFilter
from orders.audit.rules import RULES
from orders.models import AuditRun
from orders.permissions import SEE_VIOLATIONS


class OutcomeFilter(admin.SimpleListFilter):
    title = "outcome"
    parameter_name = "outcome"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("balanced", "the books balance"), ("violations", "violations found")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        match self.value():
            case None:
                return queryset
            case "balanced":
                return queryset.filter(violations=0)
            case "violations":
                return queryset.filter(violations__gt=0)
        raise ValueError(f"outcome cannot be {self.value()!r}")


class AuditAdmin(ReadOnlyAdmin):
    """The list of audits, and a page for each with all it found."""

    list_display = ["started_at", "outcome", "broken", "orders", "took", "not_asked"]
    list_filter = [OutcomeFilter, ("started_at", PastDateFilter)]
    list_per_page = 50
    show_facets = admin.ShowFacets.NEVER
    ordering = ["-pk"]
    fields = ["started_at", "outcome", "orders", "took"]
    change_form_template = "admin/orders/auditrun/change_form.html"

    class Media:
        css = {"all": ["orders/audits.css"]}

    @admin.display(description="outcome", ordering="violations")
    def outcome(self, run: AuditRun) -> SafeString:
        if run.violations:
            words = f"{run.violations} violation{'' if run.violations == 1 else 's'}"
            return format_html('<span class="od-badge od-failed">{}</span>', words)
        if run.left_out:
            return format_html('<span class="od-badge od-cancelling">{}</span>', "not all asked")
        return format_html('<span class="od-badge od-done">{}</span>', "the books balance")

    @admin.display(description="broken rules")
    def broken(self, run: AuditRun) -> str:
        return ", ".join(f"{name} ({count})" for name, count in sort_rules(run) if count)

    @admin.display(description="took", ordering="seconds")
    def took(self, run: AuditRun) -> str:
        return f"{run.seconds:.1f}\N{NO-BREAK SPACE}s"

    @admin.display(description="not asked")
    def not_asked(self, run: AuditRun) -> str:
        return ", ".join(run.left_out)

    def render_change_form(
        self, request: HttpRequest, context: Any, *args: Any, **options: Any
    ) -> HttpResponse:
        """The stock page, with what was found, rule by rule."""
        if (run := options.get("obj")) is not None:
            sees = request.user.has_perm(SEE_VIOLATIONS)
            context |= {
                "title": f"{run} of the books",
                "subtitle": None,
                "run": run,
                "sees_violations": sees,
                "broken_rules": list_broken(run) if sees else [],
                "asked": [
                    {"name": name, "says": RULES[name].says if name in RULES else "", "count": count}
                    for name, count in sort_rules(run)
                ],
            }
        return super().render_change_form(request, context, *args, **options)


def sort_rules(run: AuditRun) -> list[tuple[str, int]]:
    """The rules with how often each was broken, as they are asked: the database keeps them in no order."""
    places = {name: place for place, name in enumerate(RULES)}
    return sorted(run.rules.items(), key=lambda rule: places.get(rule[0], len(places)))


def list_broken(run: AuditRun) -> list[dict[str, Any]]:
    """The broken rules with their violations, and how many of them were not kept."""
    found: dict[str, list[Any]] = {}
    for violation in run.found.select_related("order"):
        found.setdefault(violation.rule, []).append(violation)
    return [
        {
            "name": name,
            "says": RULES[name].says if name in RULES else "",
            "count": count,
            "violations": found.get(name, []),
            "left_out": count - len(found.get(name, [])),
        }
        for name, count in sort_rules(run)
        if count
    ]
