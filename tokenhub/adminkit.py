"""The base of every admin page: one look, empty lists that say what to do, and lists of words as text. Imports no app;
each app's admin.py may import it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from django import forms
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.utils import flatten_fieldsets, unquote
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Field
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold import decorators
from unfold.admin import ModelAdmin
from unfold.admin import TabularInline as UnfoldTabularInline
from unfold.widgets import UnfoldAdminTextareaWidget

from tokenhub import adminversion, turn

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
    """`empty_title` and `empty_hint` stand where a list has no rows. A form that was made from what is no longer stored
    is shown again in place of being saved: tokenhub/adminversion.py."""

    compressed_fields = True
    warn_unsaved_form = True
    list_filter_sheet = True
    list_per_page = 50
    empty_value_display = "-"
    empty_title = "Nothing here yet"
    empty_hint = ""
    change_form_before_template = "tokenhub/version.html"

    class Media:
        css: ClassVar[dict[str, tuple[str, ...]]] = {"all": ("pages/pages.css",)}

    def response_action(self, request: HttpRequest, queryset: Any) -> HttpResponse | None:
        """Of all the rows that were chosen, or of none."""
        with transaction.atomic():
            return super().response_action(request, queryset)  # type: ignore[no-any-return]

    # -- whether somebody else changed it meanwhile --------------------------------------------------------------------
    def unshown(self, obj: Any) -> Mapping[str, Any]:
        """What a form of it changes and does not show, by what people call it: it belongs to the form's version."""
        return {}

    def changeform_view(
        self, request: HttpRequest, object_id: str | None = None, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        """A save is compared with the row in its own transaction, in its turn, once the row is locked."""
        if request.method != "POST" or object_id is None:
            return super().changeform_view(request, object_id, form_url, extra_context)  # type: ignore[no-any-return]
        with transaction.atomic():
            request.stale_form = self._stale(request, object_id)  # type: ignore[attr-defined]  # for get_form and the page
            return super().changeform_view(request, object_id, form_url, extra_context)  # type: ignore[no-any-return]

    def _stale(self, request: HttpRequest, object_id: str) -> adminversion.Stale | None:
        key = unquote(object_id)
        turn.take()
        rows = self.model._default_manager  # noqa: SLF001  Django's interface
        try:
            rows.select_for_update(no_key=True).filter(pk=key).first()
        except (ValueError, ValidationError):  # no key of such a row
            return None
        obj = self.get_object(request, key)
        if obj is None or not self.has_change_permission(request, obj):
            return None  # is told by what comes next
        posted = request.POST.get(adminversion.OVERWRITE) or request.POST.get(adminversion.FIELD, "")
        return adminversion.compare(posted, self._parts(request, obj))

    def _parts(self, request: HttpRequest, obj: Any) -> dict[str, adminversion.Part]:
        """Of the row as it is stored: what a form would show that is made now."""
        names = flatten_fieldsets(self.get_fieldsets(request, obj))
        form = self.get_form(request, obj, change=True, fields=names)(instance=obj)
        rows = [
            (formset.get_default_prefix(), formset(instance=obj, queryset=inline.get_queryset(request)))
            for formset, inline in self.get_formsets_with_inlines(request, obj)
        ]
        return adminversion.parts_of(form, rows, self.unshown(obj))

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **options: Any) -> Any:
        made = super().get_form(request, obj, change=change, **options)
        return _refusing(made) if getattr(request, "stale_form", None) is not None else made

    def render_change_form(
        self,
        request: HttpRequest,
        context: Any,
        add: bool = False,
        change: bool = False,
        form_url: str = "",
        obj: Any = None,
    ) -> HttpResponse:
        if change and obj is not None and self.has_change_permission(request, obj):
            context["stale"] = getattr(request, "stale_form", None)
            if request.method == "POST":  # the values that stand in it were made from that one, not from this row
                context["version"] = request.POST.get(adminversion.FIELD, "")
            else:
                rows = [(one.formset.prefix, one.formset) for one in context["inline_admin_formsets"]]
                parts = adminversion.parts_of(context["adminform"].form, rows, self.unshown(obj))
                context["version"] = adminversion.version_of(parts)
        answer: HttpResponse = super().render_change_form(request, context, add, change, form_url, obj)
        return answer

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


def _refusing(form: Any) -> Any:
    """Whatever stands in it, it is not saved: it is shown again."""

    def is_valid(self: Any) -> bool:
        self.full_clean()
        return False

    return type(form.__name__, (form,), {"is_valid": is_valid})


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
