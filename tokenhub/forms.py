from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib.auth.forms import SetPasswordForm
from django.contrib.auth.models import User
from unfold.widgets import UnfoldAdminPasswordWidget

if TYPE_CHECKING:
    _SetPasswordForm = SetPasswordForm[User]
else:
    _SetPasswordForm = SetPasswordForm


class FirstPasswordForm(_SetPasswordForm):
    def __init__(self, user: User, *args: Any, **kwargs: Any) -> None:
        super().__init__(user, *args, **kwargs)
        for field in self.fields.values():
            field.widget = UnfoldAdminPasswordWidget(attrs={"autocomplete": "new-password"})
