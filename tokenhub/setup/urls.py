"""Below /admin/setup/."""

from __future__ import annotations

from django.contrib import admin
from django.urls import path

from tokenhub.setup import views

app_name = "setup"
urlpatterns = [
    path("", admin.site.admin_view(views.index), name="index"),
    path("vault/", views.open_vault, name="vault"),
    path("provider/", views.add_provider, name="provider"),
    path("provider/test/", views.test_connection, name="test"),
    path("provider/credential/", views.give_credential, name="credential"),
    path("models/", views.pick_models, name="models"),
    path("key/", views.make_key, name="key"),
    path("request/", views.try_request, name="try"),
    path("request/<uuid:request_id>/", views.request_row, name="request"),
]
