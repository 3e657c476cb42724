"""The base of every admin page: one look, empty lists that say what to do, and lists of words as text. Imports no app;
each app's admin.py may import it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar

from django import forms
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import Field
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.html import format_html
from django.utils.safestring import SafeString
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

    def impact(self, rows: Sequence[Any]) -> list[str]:
        """Who would notice if these rows went, in sentences: "3 aliases use it". Said before they go."""
        return []

    def delete_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:
        answer: HttpResponse = super().delete_view(request, object_id, extra_context)
        context = getattr(answer, "context_data", None) or {}
        if context.get("object") is not None:
            context["impact"] = self.impact([context["object"]])
        return answer

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        """The question before several rows are deleted is an answer of the list, too."""
        answer: HttpResponse = super().changelist_view(request, extra_context)
        context = getattr(answer, "context_data", None) or {}
        if "deletable_objects" in context:
            context["impact"] = self.impact(list(context["queryset"]))
        return answer

    def ask_before(
        self, request: HttpRequest, rows: Sequence[Any], *, title: str, impact: Sequence[str], button: str
    ) -> HttpResponse | None:
        """For an action of a list: the page that asks; None once the answer is yes."""
        if request.POST.get("sure") == "yes":
            return None
        context = {
            **self.admin_site.each_context(request),
            "title": title,
            "opts": self.opts,
            "rows": rows,
            "impact": impact,
            "button": button,
            "action": request.POST.get("action", ""),
            "checkbox": ACTION_CHECKBOX_NAME,
        }
        return TemplateResponse(request, "tokenhub/ask.html", context)


class TabularInline(UnfoldTabularInline):  # type: ignore[misc]  # unfold has no type information
    """Rows that belong to the page's object. A field has no label but its column's head, so each says its name."""

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


class SliderWidget(forms.NumberInput):
    """A number between two, with the number beside it (static/pages/slider.js keeps it up to date)."""

    input_type = "range"

    class Media:
        js = ("pages/slider.js",)
        css: ClassVar[dict[str, tuple[str, ...]]] = {"all": ("pages/pages.css",)}

    def render(self, name: str, value: Any, attrs: Any = None, renderer: Any = None) -> SafeString:
        field = super().render(name, value, {**(attrs or {}), "class": "pg-range", "data-slider": ""}, renderer)
        return format_html('<span class="pg-slider">{}<output>{}</output></span>', field, value)
