"""``{% workflows_of invoice %}``: the panel of an object's workflows, on any page."""

from typing import Any

from django import template
from django.contrib.admin import AdminSite, site
from django.utils.safestring import SafeString

from general_manager.workflow.admin.panel import panel_of, render_panel

register = template.Library()


@register.simple_tag(takes_context=True)
def workflows_of(context: Any, obj: Any, admin_site: AdminSite = site) -> SafeString:
    """The executions about *obj* that the request's user may view; empty for others.

    Links lead to *admin_site*, whose pages say who may view what. Needs the context processor
    ``django.template.context_processors.request``.
    """
    request = context.get("request")
    if request is None or not hasattr(request, "user"):
        return SafeString("")
    return render_panel(panel_of(obj, admin_site, request))
