"""The test project's urls, as a project would write them."""

from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("admin/", admin.site.urls),
    path("workflows/", include("general_manager.urls")),
]
