from django.apps import AppConfig


class ShopConfig(AppConfig):
    name = "tests.acceptance.production.shop"
    label = "production_shop"
