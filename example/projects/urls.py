from django.urls import path

from projects import views

app_name = "projects"
urlpatterns = [
    path("", views.start_page, name="start"),
    path("projects/<int:key>/activate", views.activate, name="activate"),
    path("projects/<int:key>/request-budget", views.ask_for_budget, name="request-budget"),
    path("projects/<int:key>/send-invoice", views.invoice, name="send-invoice"),
    path("payments/received", views.payment_received, name="payment-received"),
    path("executions/<str:execution_id>/answer", views.answer, name="answer"),
]
