"""The switch and the slider of each row in the list of models. A row tells what it showed; one that somebody else has
changed since then is left alone, and named."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

from django import forms
from django.contrib import messages
from django.http import HttpRequest
from unfold.widgets import UnfoldBooleanSwitchWidget

from routing import impact
from routing.models import Model
from routing.policy import MAX_WEIGHT
from tokenhub import turn
from tokenhub.adminkit import SliderWidget

ROW_FIELDS: Final = ("enabled", "weight")


class ModelRowForm(forms.ModelForm):  # type: ignore[type-arg]
    """What is changed most, without opening each model."""

    class Meta:
        model = Model
        fields = ROW_FIELDS
        widgets: ClassVar[dict[str, forms.Widget]] = {
            "enabled": UnfoldBooleanSwitchWidget,
            "weight": SliderWidget(attrs={"min": 0, "max": MAX_WEIGHT}),
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name, word in (("enabled", "State"), ("weight", "Weight")):
            if name in self.fields:
                self.fields[name].widget.attrs["aria-label"] = f"{word} of {self.instance.pk}"
                self.fields[name].show_hidden_initial = True

    @property
    def is_stale(self) -> bool:
        return any(self._shown(name) != self.initial[name] for name in ROW_FIELDS)

    def _shown(self, name: str) -> Any:
        try:
            return self.fields[name].to_python(self.data.get(self[name].html_initial_name))
        except forms.ValidationError:
            return None

    def has_changed(self) -> bool:
        return not self.is_stale and super().has_changed()


if TYPE_CHECKING:
    _Rows = forms.BaseModelFormSet[Model, ModelRowForm]
else:
    _Rows = forms.BaseModelFormSet


class ModelRows(_Rows):
    def stale(self) -> list[str]:
        return [form.instance.pk for form in self.forms if form.is_stale]

    def switched_off(self) -> set[str]:
        changed = [form for form in self.forms if form.has_changed() and "enabled" in form.changed_data]
        return {form.instance.pk for form in changed if not form.cleaned_data["enabled"]}


def lock_rows(request: HttpRequest) -> None:
    """Those of the list that was posted, until they are saved."""
    names = [value for name, value in request.POST.items() if name.startswith("form-") and name.endswith("-id")]
    turn.take()
    list(Model.objects.select_for_update(no_key=True).filter(pk__in=names).order_by("pk").values_list("pk"))


def tell_of(request: HttpRequest, rows: ModelRows) -> None:
    """Once they are saved."""
    if stale := rows.stale():
        names = ", ".join(stale)
        messages.warning(request, f"Not taken over, as somebody else changed it after this list was shown: {names}.")
    if off := rows.switched_off():
        for sentence in impact.of_models(off):
            messages.warning(request, sentence)
