"""The test project's urls, as a project would write them."""

from django.contrib import admin
from django.http import HttpResponse
from django.urls import include, path

urlpatterns = [
    path("admin/", admin.site.urls),
    path("workflows/", include("general_manager.urls")),
    # A browser asks for it whenever it likes, and complains on whatever page it then is.
    path("favicon.ico", lambda request: HttpResponse(status=204)),
]
