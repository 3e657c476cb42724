"""The list of the request log in the admin, for a log of any length: filters by equality, from drop-downs that the
index fills; searched as telemetry.search does; never counted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from django.contrib import admin, messages
from django.contrib.admin.options import IncorrectLookupParameters
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.timezone import localtime
from unfold import paginator
from unfold.contrib.filters.admin import DropdownFilter
from unfold.contrib.filters.forms import DropdownForm
from unfold.views import ChangeList

from telemetry import search
from telemetry.models import RequestLog
from telemetry.search import Term

Choices = list[tuple[str, str]]
_FAILED: Final = {"failed": (400, 1000), "client": (400, 500), "server": (500, 1000), "ok": (0, 400)}


class InfinitePaginator(paginator.InfinitePaginator):  # type: ignore[misc]  # unfold has no type information
    """As far as the API's `offset` goes. Further back, dates lead. Unfold knows by its name that it does not count."""

    count = 10_000


class OutcomeFilter(DropdownFilter):  # type: ignore[misc]
    title = "outcome"
    parameter_name = "outcome"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Choices:
        return [
            ("ok", "Answered"),
            ("failed", "Any error"),
            ("client", "Client's error (4xx)"),
            ("server", "Failed (5xx)"),
        ]

    def queryset(self, request: HttpRequest, queryset: QuerySet[RequestLog]) -> QuerySet[RequestLog]:
        return queryset  # the list asks for `term`

    def term(self) -> Term | None:
        return search.statuses(*_FAILED[self.value()]) if self.value() in _FAILED else None


class ValueFilter(admin.FieldListFilter):
    """One of the values that the log has."""

    template = "unfold/filters/filters_field.html"

    def __init__(
        self, field: Any, request: HttpRequest, params: Any, model: Any, model_admin: Any, field_path: str
    ) -> None:
        super().__init__(field, request, params, model, model_admin, field_path)
        given = self.used_parameters.get(field_path)
        self.chosen: str = str(given[-1] if isinstance(given, list) else given or "")

    def expected_parameters(self) -> list[str | None]:
        return [self.field_path]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset  # the list asks for `term`

    def term(self) -> Term | None:
        return search.equal(self.field_path, self.chosen) if self.chosen else None

    def named(self) -> Choices:
        return [(one, one) for one, _ in search.known(self.field_path) if one]

    def choices(self, changelist: Any) -> Iterator[Any]:
        found = self.named()
        if self.chosen and self.chosen not in dict(found):
            found.append((self.chosen, self.chosen))
        label = f" By {self.title} "
        choices = [("", "All"), *found]
        yield {
            "form": DropdownForm(
                label=label, name=self.field_path, choices=choices, data={self.field_path: self.chosen}
            )
        }


class KeyFilter(ValueFilter):
    """A client key, by the name that it had at its last request."""

    def named(self) -> Choices:
        found = search.known(self.field_path, label="api_key_name")
        return sorted((one for one in found if one[0]), key=lambda one: one[1].lower())


class YesNoFilter(ValueFilter):
    def term(self) -> Term | None:
        return search.equal(self.field_path, self.chosen == "1") if self.chosen in {"0", "1"} else None

    def named(self) -> Choices:
        return [("1", "Yes"), ("0", "No")]


class LogList(ChangeList):  # type: ignore[misc]
    def get_filters(self, request: HttpRequest) -> Any:
        found = super().get_filters(request)
        if found[2]:  # lookups that are no filter's would read the whole log
            raise IncorrectLookupParameters
        return found

    def get_ordering(self, request: HttpRequest, queryset: QuerySet[RequestLog]) -> list[str]:
        return ["-created_at", "-pk"]  # any other would sort the whole log

    def get_queryset(self, request: HttpRequest, exclude_parameters: Any = None) -> QuerySet[RequestLog]:
        rows = super().get_queryset(request, exclude_parameters)
        terms = [spec.term() for spec in self.filter_specs if hasattr(spec, "term")]
        if wanted := self.query.strip():
            terms.append(search.named(wanted))
        found = search.search(rows, [term for term in terms if term is not None])
        self.back_to = found.back_to
        return found.rows

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        if self.back_to is not None and len(self.result_list) < self.list_per_page:
            messages.info(
                request,
                f"Searched back to {localtime(self.back_to):%Y-%m-%d %H:%M:%S}. For older requests, set the end of the"
                " dates to that time.",
            )
        elif self.page_num == self.paginator.num_pages:
            messages.info(request, "This is the last page of the list. For older requests, set the end of the dates.")
