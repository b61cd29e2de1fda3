"""What a project includes in its urls: ``path("workflows/", include("general_manager.urls"))``."""

from django.urls import path

from general_manager.workflow.links import resume_view

app_name = "general_manager"
urlpatterns = [path("answer/<str:token>/", resume_view, name="resume")]
