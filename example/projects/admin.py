from django.contrib import admin

from general_manager.admin import WorkflowsPanel
from projects.models import DeadLetter, Project


@admin.register(Project.Interface.model)
class ProjectAdmin(WorkflowsPanel, admin.ModelAdmin):
    """A project's page shows its workflows below its own fields."""

    list_display = ("name", "status", "budget", "owner")
    list_filter = ("status",)
    search_fields = ("name",)


@admin.register(DeadLetter)
class DeadLetterAdmin(admin.ModelAdmin):
    list_display = ("noted_at", "event_name", "error")
