"""Health over HTTP: a status for load balancers and monitors, details for staff."""

from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db import Error, transaction
from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from general_manager.escaping import get_logger
from general_manager.workflow.operations.health import check_health

logger = get_logger(__name__)

VIEW_PERMISSION = "general_manager.view_workflowexecutionrecord"


@never_cache
@require_safe
@transaction.non_atomic_requests  # else a database that is down fails first
def health_view(request: HttpRequest) -> JsonResponse:
    """200 if all is well, else 503. ``{"ok": ...}``, with details for staff with permission."""
    try:
        health = check_health()
        # The session, and so the user, may be in the database that is down.
        may_see_more = _may_see_more(request)
    except (Error, ImproperlyConfigured):
        logger.exception("Could not read the health")
        return JsonResponse({"ok": False}, status=503)
    content: dict[str, Any] = health.to_json() if may_see_more else {"ok": health.is_well}
    return JsonResponse(content, status=200 if health.is_well else 503)


def _may_see_more(request: HttpRequest) -> bool:
    user = getattr(request, "user", None)
    if not getattr(user, "is_staff", False):  # a project's own model may have neither
        return False
    has_perm = getattr(user, "has_perm", None)
    return has_perm is not None and bool(has_perm(VIEW_PERMISSION))
