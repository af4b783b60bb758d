"""The app of the models that tests define."""

from __future__ import annotations

from django.apps import AppConfig


class Found(AppConfig):
    """`app_label = "found"`."""

    name = "tests.integration.django"
    label = "found"
