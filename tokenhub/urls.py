"""What Django serves: the admin and its API. The data plane's paths never come here."""

from django.conf import settings
from django.contrib import admin
from django.urls import URLPattern, URLResolver, include, path, re_path
from django.views.generic import RedirectView

from tokenhub import standings, views

admin.autodiscover()
if settings.SSO:
    from allauth.account.decorators import secure_admin_login

    admin.site.login = secure_admin_login(admin.site.login)  # type: ignore[method-assign]  # before its URLs are made

urlpatterns: list[URLPattern | URLResolver] = [
    path("", RedirectView.as_view(pattern_name="admin:index")),
    path("login-link/<str:token>/", views.login_link, name="login-link"),
    path("first-password/", views.first_password, name="first-password"),
    path("admin/v1/", include("tokenhub.api")),
    path("admin/setup/", include("tokenhub.setup.urls")),
    path("admin/dashboard/", include("tokenhub.overview")),
    path("admin/live/", include("tokenhub.live")),
    path("admin/playground/", include("tokenhub.playground")),
    path("admin/simulator/", include("tokenhub.simulator")),
    path("admin/leaderboard/", include(standings.leaderboard_urls)),
    path("admin/learning/", include(standings.learning_urls)),
    path("admin/health/", include(standings.health_urls)),
    path("admin/", admin.site.urls),
]
if settings.SSO:
    urlpatterns += [
        re_path(r"^accounts/(?:signup|email|password|confirm-email|social/)", views.nowhere),
        re_path(r"^accounts/3rdparty/(?!login/(?:cancelled|error)/$)", views.nowhere),
        path("accounts/", include("allauth.urls")),
    ]
