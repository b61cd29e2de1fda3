"""URLs to include in a project: ``path("workflows/", include("general_manager.urls"))``."""

from django.urls import path

from general_manager.workflow.operations.health_view import health_view
from general_manager.workflow.resume_links import resume_view

app_name = "general_manager"
urlpatterns = [
    path("answer/<str:token>/", resume_view, name="resume"),
    path("health/", health_view, name="health"),
]
