"""The frame of pages that are not one of Django's: the site's context and breadcrumbs."""

from collections.abc import Iterator
from typing import Any, Final

import django
from django.contrib.admin import ModelAdmin
from django.contrib.admin.utils import quote
from django.db.models import Model
from django.http import HttpRequest
from django.urls import reverse
from django.utils.functional import Promise
from django.utils.text import capfirst
from django.utils.translation import gettext as _

CRUMBS_ARE_A_LIST: Final = django.VERSION >= (6, 1)
Text = str | Promise


def frame(page: "ModelAdmin[Any]", request: HttpRequest, *, title: Text) -> dict[str, Any]:
    """The context of every page of the site. Also makes its URLs resolve on this site."""
    request.current_app = page.admin_site.name
    return {
        **page.admin_site.each_context(request),
        "opts": page.model._meta,
        "media": page.media,
        "title": title,
        "crumbs_are_a_list": CRUMBS_ARE_A_LIST,
        "crumbs": list(way_to_app(page)),
    }


def way_to_app(page: "ModelAdmin[Any]") -> Iterator[tuple[str, Text]]:
    """Breadcrumbs from the site's index to our app's index: URLs and names."""
    opts, site = page.model._meta, page.admin_site.name
    yield reverse("admin:index", current_app=site), _("Home")
    app = reverse("admin:app_list", args=[opts.app_label], current_app=site)
    yield app, opts.app_config.verbose_name


def way_to_object(page: "ModelAdmin[Any]", obj: Model | None) -> Iterator[tuple[str, Text]]:
    """Breadcrumbs for the list of rows and, if given, for *obj*."""
    yield list_url(page), capfirst(page.model._meta.verbose_name_plural)
    if obj is not None:
        yield object_url(page, obj), str(obj)


def list_url(page: "ModelAdmin[Any]") -> str:
    return _url(page, "changelist")


def object_url(page: "ModelAdmin[Any]", obj: Model) -> str:
    return _url(page, "change", quote(obj.pk))


def _url(page: "ModelAdmin[Any]", kind: str, *arguments: str) -> str:
    opts, site = page.model._meta, page.admin_site.name
    name = f"admin:{opts.app_label}_{opts.model_name}_{kind}"
    return reverse(name, args=arguments, current_app=site)
