from django.contrib import admin

from projects.models import DeadLetter, Project


@admin.register(Project.Interface.model)
class ProjectAdmin(admin.ModelAdmin):
    list_display = ("name", "status", "budget", "owner")
    list_filter = ("status",)
    search_fields = ("name",)


@admin.register(DeadLetter)
class DeadLetterAdmin(admin.ModelAdmin):
    list_display = ("noted_at", "event_name", "error")
