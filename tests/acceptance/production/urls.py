from django.urls import path

from tests.acceptance.production.shop import views

urlpatterns = [
    path("projects", views.activate_a_project),
    path("budgets", views.ask_for_a_budget),
    path("answers", views.answer),
    path("failing", views.publish_what_fails),
    path("stumbling", views.start_what_stumbles),
    path("remembered", views.look_into_memory),
]
