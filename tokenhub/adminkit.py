"""The base of every admin page: one look, empty lists that say what to do, and lists of words as text. Imports no app;
each app's admin.py may import it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from django import forms
from django.db.models import Field
from django.http import HttpRequest
from unfold import decorators
from unfold.admin import ModelAdmin
from unfold.admin import TabularInline as UnfoldTabularInline
from unfold.widgets import UnfoldAdminTextareaWidget

F = TypeVar("F", bound=Callable[..., Any])


def display(**options: Any) -> Callable[[F], F]:
    """unfold's, with a type: a column of a list."""
    decorate: Callable[[F], F] = decorators.display(**options)
    return decorate


def action(**options: Any) -> Callable[[F], F]:
    """unfold's, with a type: a button. Its page must ask before it changes anything: it is reached by a link."""
    decorate: Callable[[F], F] = decorators.action(**options)
    return decorate


class Admin(ModelAdmin):  # type: ignore[misc]  # unfold has no type information
    """`empty_title` and `empty_hint` stand where a list has no rows."""

    compressed_fields = True
    warn_unsaved_form = True
    list_filter_sheet = True
    list_per_page = 50
    empty_value_display = "-"
    empty_title = "Nothing here yet"
    empty_hint = ""


class TabularInline(UnfoldTabularInline):  # type: ignore[misc]  # unfold has no type information
    """Rows that belong to the page's object. A field's only label is its column's head, so each says its name itself."""

    def formfield_for_dbfield(self, db_field: Field[Any, Any], request: HttpRequest, **options: Any) -> Any:
        found = super().formfield_for_dbfield(db_field, request, **options)
        if found is not None and found.label:
            widget = getattr(found.widget, "widget", found.widget)  # the one inside the links to the related rows
            widget.attrs.setdefault("aria-label", str(found.label))
        return found


class ReadOnlyAdmin(Admin):
    """Rows that only the system writes."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class WordsField(forms.CharField):
    """A list of words, one per line or with commas between them."""

    widget = UnfoldAdminTextareaWidget

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"required": False, "widget": UnfoldAdminTextareaWidget(attrs={"rows": 3}), **options})

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(map(str, value)) if isinstance(value, list) else value

    def to_python(self, value: Any) -> Any:
        text = super().to_python(value) or ""
        words = [word.strip() for word in text.replace(",", "\n").splitlines()]
        return list(dict.fromkeys(word for word in words if word))

    def has_changed(self, initial: Any, data: Any) -> bool:
        return bool(list(initial or []) != self.to_python(data))
