from django.urls import path

from tests.acceptance.production.shop import views

urlpatterns = [
    path("projects", views.activate_a_project),
    path("budgets", views.ask_for_a_budget),
    path("answers", views.answer),
]
