"""Whether a form of the admin was made from what is stored now. The form carries a digest of every field and every row
below it, as it showed them; a save whose digests are not those of the locked row is refused, and told what differs.
Imports no app: who changed it comes from HISTORY, which is filled from above."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from django import forms
from django.core import signing
from django.core.exceptions import FieldDoesNotExist
from django.forms.models import BaseInlineFormSet
from django.utils import timezone
from django.utils.crypto import salted_hmac
from django.utils.text import capfirst

FIELD: Final = "_version"
OVERWRITE: Final = "_overwrite"
"""The field that says yes to what was told; its value is the version that was looked at then."""

_SALT: Final = "tokenhub.adminversion"
_CLOCKS: Final = timedelta(minutes=1)
"""How far the clocks of two hosts may be apart before an entry of the audit log is not found."""
_MAX_CHARS: Final = 80


@dataclass(frozen=True, slots=True)
class Entry:
    """One change by somebody, as the audit log has it. `resource`: `<model>/<key>`."""

    resource: str
    fields: frozenset[str]
    actor: str
    at: datetime


HISTORY: list[Callable[[Sequence[str], datetime], Iterable[Entry]]] = []
"""Asked for the changes of some resources since a moment, newest first."""


@dataclass(frozen=True, slots=True)
class Part:
    """What can differ: a field, or a row below. `names`: of its fields in the audit log; none: any."""

    label: str
    digest: str
    resource: str
    names: frozenset[str] = frozenset()
    now: str = ""


@dataclass(frozen=True, slots=True)
class Difference:
    """`now`: the value that is stored; empty where it is not told. `who`: empty when nobody knows."""

    label: str
    now: str = ""
    who: str = ""
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Stale:
    """A save that was refused. `version`: of what is stored. No differences: the form did not say its version."""

    differences: tuple[Difference, ...]
    version: str


Parts = Mapping[str, Part]
Rows = Iterable[tuple[str, "BaseInlineFormSet[Any, Any, Any]"]]


def parts_of(form: forms.ModelForm[Any], rows: Rows, unshown: Mapping[str, Any]) -> dict[str, Part]:
    """Of a form and of formsets that are not bound. `unshown`: what the form changes and does not show."""
    resource = _resource(form.instance)
    found = {}
    for name, field in form.fields.items():
        if field.disabled:
            continue
        value = _plain(field, form[name].initial)
        label = capfirst(str(field.label or name.replace("_", " ")))
        found[name] = Part(label, _digest(name, value), resource, _logged(form, name), _shown(field, value))
    for name, value in unshown.items():
        found[f"+{name}"] = Part(name, _digest(name, str(value)), resource)
    for prefix, formset in rows:
        for one in formset.initial_forms:
            told = {
                name: _plain(field, one[name].initial) for name, field in one.fields.items() if name not in _FORMSET
            }
            what = capfirst(str(one.instance._meta.verbose_name))  # noqa: SLF001  Django's interface
            found[f"{prefix}/{one.instance.pk}"] = Part(
                f"{what} “{one.instance}”", _digest(prefix, told), _resource(one.instance)
            )
    return found


_FORMSET: Final = frozenset({"DELETE", "ORDER"})


def version_of(parts: Parts) -> str:
    """For the hidden field."""
    told = {name: [part.digest, part.resource] for name, part in parts.items()}
    return signing.dumps({"at": timezone.now().timestamp(), "is": told}, salt=_SALT, compress=True)


def compare(posted: str, parts: Parts) -> Stale | None:
    """None: the form was made from these. `parts`: of the row, once it is locked."""
    try:
        read = signing.loads(posted, salt=_SALT)
    except signing.BadSignature:
        return Stale((), version_of(parts))
    before: dict[str, list[str]] = read["is"]
    differing = [name for name, part in parts.items() if name not in before or before[name][0] != part.digest]
    gone = [name for name in before if name not in parts]
    if not differing and not gone:
        return None
    since = datetime.fromtimestamp(read["at"], tz=timezone.get_default_timezone()) - _CLOCKS
    resources = sorted({*(parts[name].resource for name in differing), *(before[name][1] for name in gone)})
    entries = [entry for ask in HISTORY for entry in ask(resources, since)]
    told = [_difference(_told_label(name, before, parts), parts[name], entries) for name in differing]
    told += [_difference(_gone_label(before[name][1]), Part("", "", before[name][1]), entries) for name in gone]
    return Stale(tuple(told), version_of(parts))


def _told_label(name: str, before: Mapping[str, Any], parts: Parts) -> str:
    return parts[name].label if name in before else f"{parts[name].label}, which is new"


def _gone_label(resource: str) -> str:
    return f"A row that was removed ({resource.replace('/', ' ')})"


def _difference(label: str, part: Part, entries: Iterable[Entry]) -> Difference:
    for entry in entries:
        if entry.resource == part.resource and (not part.names or part.names & entry.fields):
            return Difference(label, part.now, entry.actor, entry.at)
    return Difference(label, part.now)


def _resource(row: Any) -> str:
    return f"{row._meta.model_name}/{row.pk}"  # noqa: SLF001


def _logged(form: forms.ModelForm[Any], name: str) -> frozenset[str]:
    """What the audit log calls a field: its column; several rows by their kind's name."""
    try:
        field = form._meta.model._meta.get_field(name)  # noqa: SLF001
    except FieldDoesNotExist:
        return frozenset()
    if field.many_to_many:
        return frozenset({str(field.related_model._meta.verbose_name_plural)})  # noqa: SLF001
    return frozenset({getattr(field, "attname", name)})


def _plain(field: forms.Field, value: Any) -> Any:
    prepared = field.prepare_value(value)
    if isinstance(field, forms.ModelMultipleChoiceField):
        return sorted(map(str, prepared or ()))
    return "" if prepared is None else prepared


def _shown(field: forms.Field, value: Any) -> str:
    match field:
        case forms.ModelMultipleChoiceField():
            return f"{len(value)} chosen"
        case forms.ModelChoiceField():
            text = str(value)
        case forms.MultipleChoiceField():
            text = ", ".join(map(str, value))
        case forms.ChoiceField():
            known = {str(key): str(word) for key, word in _flat(field.choices)}
            text = known.get(str(value), str(value))
        case forms.BooleanField():
            text = "yes" if value else "no"
        case _:
            text = str(value)
    return f"{text[:_MAX_CHARS]}…" if len(text) > _MAX_CHARS else text or "empty"


def _flat(choices: Any) -> Iterable[tuple[Any, Any]]:
    for key, word in choices:
        if isinstance(word, (list, tuple)):
            yield from word
        else:
            yield key, word


def _digest(name: str, value: Any) -> str:
    text = json.dumps(value, default=str, sort_keys=True)
    return salted_hmac(_SALT, f"{name}\n{text}", algorithm="sha256").hexdigest()[:20]
