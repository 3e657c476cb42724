"""The base of every view and serializer of the admin API: who may, how lists are cut, how errors come about. Imports no
app; each app's api.py and serializers.py may import it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from decimal import Decimal, InvalidOperation
from hashlib import sha256
from typing import IO, Any, Final, TypeVar

from django.conf import settings
from django.db import models, transaction
from django.db.models import QuerySet
from django.http import Http404
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_field, inline_serializer
from rest_framework import serializers
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.pagination import BasePagination
from rest_framework.parsers import BaseParser
from rest_framework.permissions import BasePermission
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils.encoders import JSONEncoder
from rest_framework.views import APIView
from rest_framework.viewsets import GenericViewSet

from tokenhub import turn

M = TypeVar("M", bound=models.Model)
_INVALID = "invalid_request_error"
_SERVER = "server_error"

CODES: Final[dict[str, tuple[int, str]]] = {
    "invalid_json": (400, _INVALID),
    "invalid_request": (400, _INVALID),
    "missing_api_key": (401, "authentication_error"),
    "invalid_api_key": (401, "authentication_error"),
    "permission_denied": (403, "permission_error"),
    "wrong_password": (403, "permission_error"),
    "not_found": (404, "not_found_error"),
    "method_not_allowed": (405, _INVALID),
    "conflict": (409, _INVALID),
    "precondition_failed": (412, _INVALID),
    "request_too_large": (413, _INVALID),
    "rate_limit_exceeded": (429, "rate_limit_error"),
    "internal_error": (500, _SERVER),
    "upstream_error": (502, _SERVER),
    "vault_locked": (503, _SERVER),
    "overloaded": (503, _SERVER),
}


class ApiError(Exception):
    """An answer of the admin API. `message` names the cause in a plain sentence, `hint` the next step, `errors`
    whatever else is wrong, by its path."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        param: str | None = None,
        hint: str = "",
        retry_after_seconds: float | None = None,
        errors: Sequence[Mapping[str, str]] = (),
    ) -> None:
        super().__init__(message)
        self.errors = errors
        self.code = code
        self.message = message
        self.param = param
        self.hint = hint
        self.status, self.type = CODES[code]
        self.retry_after_seconds = retry_after_seconds


def invalid(param: str, message: str) -> ApiError:
    return ApiError("invalid_request", f"{param}: {message}", param=param)


# -- reading and writing JSON --------------------------------------------------------------------------------------
class JSONParser(BaseParser):
    """Whatever the content type says. Refuses what no database takes."""

    media_type = "application/json"

    def parse(self, stream: IO[Any], media_type: str | None = None, parser_context: Any = None) -> Any:
        limit: int = settings.TOKENHUB_MAX_BODY_BYTES
        raw = stream.read(limit + 1)
        if len(raw) > limit:
            raise ApiError("request_too_large", f"The request's body is larger than {limit} bytes.")
        if not raw.strip():
            return {}
        try:
            data = json.loads(raw, parse_constant=_refuse_constant)
            _check_values(data)
        except RecursionError:
            raise ApiError("invalid_json", "The body is nested too deeply.") from None
        except ValueError as problem:  # also UnicodeDecodeError
            where = f" ({problem})" if isinstance(problem, json.JSONDecodeError) else ""
            raise ApiError("invalid_json", f"The body is no JSON{where}.", hint="Send one JSON object.") from None
        return data


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _check_values(data: Any) -> None:
    """Raises ValueError, RecursionError."""
    match data:
        case str():
            data.encode("utf-8")  # half a surrogate pair has none
            if "\0" in data:
                raise ValueError("a NUL character")
        case float() if not math.isfinite(data):
            raise ValueError("a number out of range")
        case dict():
            for name, value in data.items():
                _check_values(name)
                _check_values(value)
        case list():
            for value in data:
                _check_values(value)


class OnlyJSON(BaseContentNegotiation):
    """No content type and no Accept header is wrong: there is one form."""

    def select_parser(self, request: Request, parsers: Iterable[Any]) -> Any:
        return next(iter(parsers))

    def select_renderer(self, request: Request, renderers: Iterable[Any], format_suffix: str | None = None) -> Any:
        renderer = next(iter(renderers))
        return renderer, renderer.media_type


# -- who may do what -----------------------------------------------------------------------------------------------
Rights = Mapping[str, tuple[str, ...]]


def rights(model: type[models.Model]) -> Rights:
    """What Django's permissions must allow, by method. To create by PUT or POST may be to change, too."""
    label, name = model._meta.app_label, model._meta.model_name  # noqa: SLF001  Django's interface
    view, add, change, delete = (f"{label}.{verb}_{name}" for verb in ("view", "add", "change", "delete"))
    return {"GET": (view,), "POST": (add, change), "PUT": (add, change), "PATCH": (change,), "DELETE": (delete,)}


ADMINS_ALONE: Final[Rights] = dict.fromkeys(("GET", "POST", "PUT", "PATCH", "DELETE"), ("tokenhub.administer",))
"""Superusers and the group Admin."""


class Allowed(BasePermission):
    message = "You may not do this."

    def has_permission(self, request: Request, view: APIView) -> bool:
        user: Any = request.user
        if not (user and user.is_authenticated and user.is_active and user.is_staff):
            self.message = "Only staff may use the admin API."
            return False
        wanted: Rights = getattr(view, "rights", {})
        for permission in wanted.get("GET" if request.method == "HEAD" else str(request.method), ()):
            # as in the admin, who may change may look
            if not user.has_perm(permission) and not user.has_perm(permission.replace(".view_", ".change_")):
                self.message = f"You lack the permission {permission}."
                return False
        return True


# -- views ---------------------------------------------------------------------------------------------------------
class View(APIView):
    """`rights`: permissions by method; none: every staff user may."""

    rights: Rights = {}
    permission_classes = (Allowed,)
    parser_classes = (JSONParser,)
    renderer_classes = (JSONRenderer,)
    content_negotiation_class = OnlyJSON
    metadata_class = None  # OPTIONS would tell nothing that the schema does not


def body_of(request: Request) -> dict[str, Any]:
    """Raises ApiError when it is no object."""
    if not isinstance(request.data, dict):
        raise ApiError("invalid_request", "The body must be a JSON object.")
    return request.data


def done() -> Response:
    return Response({"ok": True})


Done = inline_serializer("Done", {"ok": serializers.BooleanField()})


# -- whether somebody else changed it meanwhile ----------------------------------------------------------------------
# what changes by itself: a tag tells whether a person or a script changed something
_UNTAGGED: Final = frozenset({"last_used_at", "spent_usd", "leased_usd", "overrun_usd", "budget_resets_at"})


def tag_of(shown: Mapping[str, Any]) -> str:
    """The `ETag` of a record, from the way it is shown."""
    told = {name: value for name, value in shown.items() if name not in _UNTAGGED}
    return f'"{sha256(json.dumps(told, cls=JSONEncoder, sort_keys=True).encode()).hexdigest()[:32]}"'


def tagged(shown: Mapping[str, Any]) -> Response:
    """The answer that is a record."""
    return Response(shown, headers={"ETag": tag_of(shown)})


def expect(request: Request, shown: Mapping[str, Any] | None) -> None:
    """Whether the request's `If-Match` allows a change of the record; None: there is none. To be called when its row is
    locked. Raises ApiError."""
    wanted = str(request.META.get("HTTP_IF_MATCH", "")).strip()
    if not wanted or (wanted == "*" and shown is not None):
        return
    known = {one.strip().removeprefix("W/") for one in wanted.split(",")}  # proxies that compress weaken tags
    if shown is None or tag_of(shown) not in known:
        raise ApiError(
            "precondition_failed",
            "It is not what If-Match says: somebody changed it."
            if shown
            else "If-Match needs a record: there is none.",
            hint="Read it again, look at what changed, and send its new ETag.",
        )


def whole(request: Request, name: str, *, default: int, minimum: int, maximum: int) -> int:
    """A number of the query. Raises ApiError."""
    raw = request.query_params.get(name)
    if raw is None:
        return default
    if not raw.isascii() or not raw.isdigit() or len(raw) > 18 or not minimum <= int(raw) <= maximum:
        raise invalid(name, f"a whole number from {minimum} to {maximum} is needed.")
    return int(raw)


def paged(*more: OpenApiParameter) -> list[Any]:
    """The parameters of a long list, for its documentation."""
    shape = {"type": "integer"}
    return [
        OpenApiParameter("limit", {**shape, "minimum": 1, "maximum": Paging.MAX_LIMIT, "default": Paging.LIMIT}),
        OpenApiParameter(
            "offset", {**shape, "minimum": 0, "maximum": COUNTED, "default": 0}, description="Further back: `cursor`."
        ),
        OpenApiParameter(
            "cursor", {"type": "string", "pattern": "^[1-9][0-9]{0,16}$"}, description="In place of `offset`."
        ),
        *more,
    ]


class Paging(BasePagination):
    """`?limit=&offset=`."""

    LIMIT = 50
    MAX_LIMIT = 1000
    MAX_OFFSET = 1_000_000_000

    def paginate_queryset(self, queryset: Any, request: Request, view: Any = None) -> list[Any]:
        self._limit = whole(request, "limit", default=self.LIMIT, minimum=1, maximum=self.MAX_LIMIT)
        self._offset = whole(request, "offset", default=0, minimum=0, maximum=self.MAX_OFFSET)
        self._total = len(queryset) if isinstance(queryset, list) else queryset.count()
        return list(queryset[self._offset : self._offset + self._limit])

    def get_paginated_response(self, data: Any) -> Response:
        return Response({"items": data, "total": self._total, "limit": self._limit, "offset": self._offset})

    def get_schema_operation_parameters(self, view: Any) -> list[dict[str, Any]]:
        shape = {"type": "integer"}
        limit = {**shape, "minimum": 1, "maximum": self.MAX_LIMIT, "default": self.LIMIT}
        offset = {**shape, "minimum": 0, "maximum": self.MAX_OFFSET, "default": 0}
        return [
            {"name": "limit", "in": "query", "required": False, "schema": limit},
            {"name": "offset", "in": "query", "required": False, "schema": offset},
        ]

    def get_paginated_response_schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        number = {"type": "integer"}
        properties = {"items": schema, "total": number, "limit": number, "offset": number}
        return {"type": "object", "required": list(properties), "properties": properties}


class Records(View, GenericViewSet[M]):
    """Rows of a model: list, get, upsert, change, delete. Its serializer saves through the app's services; `remove`
    deletes through them."""

    pagination_class = Paging
    lookup_url_kwarg = "id"
    key_field = "id"
    """What the primary key is called in a body."""

    def remove(self, record: M) -> None:
        raise NotImplementedError

    def list(self, request: Request) -> Response:
        page = self.paginate_queryset(self.get_queryset())
        return self.get_paginated_response(self.get_serializer(page, many=True).data)

    def retrieve(self, request: Request, id: str) -> Response:  # noqa: A002  as in the URL
        return tagged(self.shown(id))

    @transaction.atomic
    def upsert(self, request: Request) -> Response:
        """Creates it, or changes the fields that are given."""
        key = body_of(request).get(self.key_field)
        found = self._locked(key) if isinstance(key, str) else None
        self.expect(request, found)
        return self._save(found, request)

    @transaction.atomic
    def partial_update(self, request: Request, id: str) -> Response:  # noqa: A002
        found = self._locked(id)
        if found is None:
            raise Http404
        if body_of(request).get(self.key_field, str(found.pk)) != str(found.pk):
            raise invalid(self.key_field, "it cannot be changed.")
        self.expect(request, found)
        return self._save(found, request)

    @extend_schema(responses=Done)
    @transaction.atomic
    def destroy(self, request: Request, id: str) -> Response:  # noqa: A002
        found = self._locked(id)
        if found is None:
            raise Http404
        self.expect(request, found)
        self.remove(found)
        return done()

    def find(self, key: str) -> M:
        """Raises Http404."""
        found = self._row(self.get_queryset(), key)
        if found is None:
            raise Http404
        return found

    def key_of(self, record: M) -> str:
        """As it stands in the URL."""
        return str(record.pk)

    def shown(self, key: str) -> Mapping[str, Any]:
        """As the API shows it. Raises Http404."""
        shown: Mapping[str, Any] = self.get_serializer(self.find(key)).data
        return shown

    def expect(self, request: Request, found: M | None) -> None:
        """Of a row that is locked. Raises ApiError."""
        if "HTTP_IF_MATCH" in request.META:
            expect(request, None if found is None else self.shown(self.key_of(found)))

    def _locked(self, key: str) -> M | None:
        """In its turn. Its key stays: whoever only refers to it need not wait."""
        turn.take()
        rows = self.get_queryset().model._default_manager  # noqa: SLF001
        return self._row(rows.select_for_update(no_key=True), key)

    def _row(self, rows: Any, key: str) -> M | None:
        if "\0" in key or len(key) > 300:
            return None
        found: M | None = rows.filter(pk=key).first()
        return found

    def _save(self, record: M | None, request: Request) -> Response:
        serializer = self.get_serializer(record, data=request.data, partial=record is not None)
        serializer.is_valid(raise_exception=True)
        saved: Any = serializer.save()
        return tagged(self.shown(self.key_of(saved)))


# -- long lists ------------------------------------------------------------------------------------------------------
COUNTED = 10_000
PAGING = frozenset({"limit", "offset", "cursor"})


def page_of(request: Request, found: QuerySet[Any], serializer: type[serializers.Serializer[Any]]) -> dict[str, Any]:
    """Of rows that may be millions, ordered by descending primary key: counted only so far, and paged by a cursor from
    there on. Raises ApiError."""
    limit = whole(request, "limit", default=Paging.LIMIT, minimum=1, maximum=Paging.MAX_LIMIT)
    offset = whole(request, "offset", default=0, minimum=0, maximum=COUNTED)
    cursor = whole(request, "cursor", default=0, minimum=1, maximum=(1 << 59))
    if cursor and offset:
        raise invalid("cursor", "give cursor or offset, not both.")
    total = found.order_by()[: COUNTED + 1].count()
    rows = list((found.filter(pk__lt=cursor) if cursor else found)[offset : offset + limit + 1])
    return {
        "items": serializer(rows[:limit], many=True).data,
        "total": min(total, COUNTED),
        "total_capped": total > COUNTED,
        "limit": limit,
        "offset": offset,
        "next_cursor": str(rows[limit - 1].pk) if len(rows) > limit else None,
    }


# -- serializers ---------------------------------------------------------------------------------------------------
class Strict(serializers.Serializer[Any]):
    """Names the fields that it does not know, and takes no value of another type for one that it might mean: the text
    "5" is no number."""

    of_query = False
    """Whether the values come from a query, where all are texts."""

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, Mapping):
            if unknown := sorted(set(data) - set(self.fields)):
                known = ", ".join(name for name, field in self.fields.items() if not field.read_only) or "none"
                raise serializers.ValidationError({str(name): [f"not known here. Known: {known}."] for name in unknown})
            if not self.of_query:
                written = ((name, value) for name, value in data.items() if not self.fields[name].read_only)
                found: Any = {
                    name: wrong for name, value in written if (wrong := _wrong_type(self.fields[name], value))
                }
                if found:
                    raise serializers.ValidationError(found)
        return super().to_internal_value(data)


def _wrong_type(field: Any, value: Any) -> list[str] | dict[int, list[str]] | None:
    """None: it has the field's type, or the field itself will say."""
    if value is None:
        return None
    match field:
        case WordsOrText() if isinstance(value, str):
            return None
        case serializers.ListField():
            if not isinstance(value, list):
                return ["A list is needed."]
            inner = {place: wrong for place, one in enumerate(value) if (wrong := _wrong_type(field.child, one))}
            return inner or None  # type: ignore[return-value]
        case Dollars() if isinstance(value, str):
            fits, wanted = (
                re.fullmatch(field.pattern, value, re.ASCII) is not None,
                "An amount of dollars such as 0.25 is needed.",
            )
        case serializers.BooleanField():
            fits, wanted = isinstance(value, bool), "true or false is needed."
        case serializers.IntegerField():
            fits = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
            fits, wanted = fits and not isinstance(value, bool), "A whole number is needed."
        case serializers.FloatField() | serializers.DecimalField():
            fits, wanted = isinstance(value, (int, float)) and not isinstance(value, bool), "A number is needed."
        case serializers.BaseSerializer() | serializers.JSONField() | serializers.DictField():
            return None
        case _:
            fits, wanted = isinstance(value, str), "A text is needed."
    return None if fits else [wanted]


class Record(Strict, serializers.ModelSerializer[M]):
    """Of a row. What the model checks is checked when the service saves it."""

    def assign(self, record: M, values: Mapping[str, Any]) -> M:
        for name, value in values.items():
            setattr(record, name, value)
        return record


_SMALLEST: Final = Decimal("1e-9")


class Dollars(serializers.DecimalField):
    """Shown as a number, taken as a number or as its text; to a billionth, which is what is counted in. Null stays
    null: no price."""

    def __init__(self, **options: Any) -> None:
        given = {"max_digits": 14, "decimal_places": 9, "min_value": Decimal(0), "coerce_to_string": False, **options}
        super().__init__(**given)
        digits = given["max_digits"] - 9
        self.most = min(self.max_value or Decimal(10**9), Decimal(10**digits) - 1)
        self.pattern = rf"[0-9]{{1,{min(digits, 9)}}}(\.[0-9]{{1,9}})?"

    def validate_precision(self, value: Decimal) -> Decimal:
        try:
            rounded = value.quantize(_SMALLEST)
        except InvalidOperation:  # far too large
            return super().validate_precision(value)
        if value > 0 and value < _SMALLEST:
            raise serializers.ValidationError("Smaller than a billionth of a dollar.")
        if rounded > self.most:
            raise serializers.ValidationError(f"At most {self.most:f}.")
        return super().validate_precision(rounded)

    def to_representation(self, value: Any) -> Any:
        return None if value is None else dollars(value)


def dollars(amount: Decimal) -> float | int:
    return int(amount) if amount == amount.to_integral_value() else float(amount)


_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@extend_schema_field({"type": "string", "pattern": "^[1-9][0-9]{0,8}[sm]$|^[1-9][0-9]{0,4}[hd]$"})
class DurationField(serializers.CharField):
    """`2s`, `30m`, `720h` or `7d`; null: without end."""

    pattern = r"([1-9][0-9]{0,8})([sm])|([1-9][0-9]{0,4})([hd])"

    def to_internal_value(self, data: Any) -> Any:
        found = re.fullmatch(self.pattern, str(data), re.ASCII)
        if found is None:
            raise serializers.ValidationError("Write a duration such as 30m, 720h or 90d.")
        return timedelta(seconds=int(found[1] or found[3]) * _UNITS[found[2] or found[4]])


class NameField(serializers.RegexField):
    """The id of a row, as URLs hold it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"regex": r"^[A-Za-z0-9._:/@+-]{1,200}$", "max_length": 200, **options})


class Words(serializers.ListField):
    """A list of words."""

    child = serializers.CharField(max_length=200)

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"max_length": 1000, **options})


class WordsOrText(Words):
    """A list of words, or the JSON text of one."""

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, str):
            try:
                data = json.loads(data)
                _check_values(data)
            except (ValueError, RecursionError):
                raise serializers.ValidationError("This text is no JSON list.") from None
        return super().to_internal_value(data)
