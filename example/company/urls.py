from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("admin/", admin.site.urls),
    path("workflows/", include("general_manager.urls")),
    path("", include("projects.urls")),
]
