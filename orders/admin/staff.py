"""Admin of people: users, their roles, and log-ins that are locked. Superusers only."""

from typing import Any

from axes.models import AccessAttempt
from axes.utils import reset
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, User
from django.db.models import OuterRef, QuerySet, Subquery, Sum
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from config.admin import ReadOnlyAdmin, allow_offered


def allow_superusers(admin: Any, request: HttpRequest, obj: Any = None) -> bool:
    """Whoever may change users can make himself a superuser: no permission opens these pages."""
    return bool(request.user.is_active and request.user.is_superuser)


def allow_nobody(admin: Any, request: HttpRequest, obj: Any = None) -> bool:
    """Not even superusers."""
    return False


class StaffAdmin(UserAdmin):  # type: ignore[type-arg]
    """Users. Nobody is deleted: what he did would lose its name, and his entries in the history."""

    list_display = ["username", "first_name", "last_name", "is_staff", "is_active", "last_login"]
    lookup_allowed = allow_offered
    has_module_permission = allow_superusers
    has_view_permission = allow_superusers
    has_add_permission = allow_superusers
    has_change_permission = allow_superusers
    has_delete_permission = allow_nobody


class RoleAdmin(GroupAdmin):
    lookup_allowed = allow_offered
    has_module_permission = allow_superusers
    has_view_permission = allow_superusers
    has_add_permission = allow_superusers
    has_change_permission = allow_superusers
    has_delete_permission = allow_superusers


class LockFilter(admin.SimpleListFilter):
    title = "log-in"
    parameter_name = "locked"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("1", "Locked"), ("0", "Not locked")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        match self.value():
            case "1":
                return queryset.filter(together__gte=settings.AXES_FAILURE_LIMIT)
            case "0":
                return queryset.filter(together__lt=settings.AXES_FAILURE_LIMIT)
        return queryset


@admin.register(AccessAttempt)
class FailedLogInAdmin(ReadOnlyAdmin):
    """Wrong passwords that still count, and the way to unlock a log-in before its time."""

    list_display = ["attempt_time", "username", "ip_address", "failures_since_start", "lock"]
    list_display_links = None
    list_filter = [LockFilter]
    search_fields = ["username", "ip_address"]
    search_help_text = "User name or address"
    ordering = ["-attempt_time"]
    fields = ["username", "ip_address", "failures_since_start", "attempt_time", "user_agent"]
    actions = ["unlock"]
    has_module_permission = allow_superusers
    has_view_permission = allow_superusers

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        # As the limit itself counts: by user name and address, over all of a client's browsers.
        fresh = AccessAttempt.objects.filter(attempt_time__gte=timezone.now() - settings.AXES_COOLOFF_TIME)
        same = fresh.filter(username=OuterRef("username"), ip_address=OuterRef("ip_address")).order_by()
        together = same.values("username").annotate(sum=Sum("failures_since_start")).values("sum")
        attempts: QuerySet[Any] = fresh.annotate(together=Subquery(together))
        return attempts

    @admin.display(description="log-in")
    def lock(self, attempt: Any) -> SafeString | str:
        if attempt.together < settings.AXES_FAILURE_LIMIT:
            return "not locked"
        return format_html('<span class="od-badge od-failed">{}</span>', "Locked")

    @admin.action(description="Unlock the selected log-ins")
    def unlock(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        """Forget the wrong passwords of the chosen users at those addresses."""
        for attempt in queryset:
            reset(username=attempt.username, ip=attempt.ip_address)
            messages.success(request, f"Unlocked: {attempt.username} from {attempt.ip_address}.")


for model, page in ((User, StaffAdmin), (Group, RoleAdmin)):
    admin.site.unregister(model)
    admin.site.register(model, page)
