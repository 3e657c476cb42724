"""Pages of the documentation that are made from the code: the options of every command, and every endpoint of the admin
API. `manage.py docs_reference` writes them; a test holds them against the code."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from django.apps import apps
from django.conf import settings
from django.core.management import load_command_class

_COMMANDS: Final = """\
# Commands

<!-- Made by `manage.py docs_reference`. -->

Every command of `manage.py` with its options, as `manage.py COMMAND --help` tells them.
[Commands](../admin/commands.md) says when each is of use.
"""
_ENDPOINTS: Final = """\
# Endpoints of the admin API

<!-- Made by `manage.py docs_reference`. -->

Every endpoint with its parameters and the fields of its body, from the OpenAPI document that a running server shows at
`/admin/v1/schema`. [Admin API](admin-api.md) has what holds for all of them.
"""
_METHODS: Final = ("get", "post", "put", "patch", "delete")
_OF_DJANGO: Final = {"help", "version", "verbosity", "settings", "pythonpath", "traceback", "no_color", "force_color",
                     "skip_checks", "use_color"}  # fmt: skip
_FROM_SETTINGS: Final = {"--listen": "TOKENHUB_LISTEN_ADDR", "--workers": "TOKENHUB_WORKERS"}
_AREAS: Final = {"apikeys": "Client keys", "admin-token": "Admin token", "tsdb": "Time series", "engine": "Engine"}


def commands() -> dict[str, str]:
    """Name and app of every command of our own, by name."""
    own = [app for app in apps.get_app_configs() if Path(app.path).parent == settings.BASE_DIR]
    files = {file.stem: app.name for app in own for file in Path(app.path).glob("management/commands/*.py")}
    return {name: app for name, app in sorted(files.items()) if not name.startswith("_")}


def commands_page() -> str:
    lines = [_COMMANDS]
    for name, app in commands().items():
        command = load_command_class(app, name)
        parser = command.create_parser("manage.py", name)
        lines += [f"## `manage.py {name}`", "", _sentence(command.help), ""]
        lines += _options(parser, f"manage.py {name}")
    return "\n".join(lines).rstrip() + "\n"


def _sentence(text: str) -> str:
    text = " ".join(text.split())
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!")) else f"{text}."


def _options(parser: argparse.ArgumentParser, name: str) -> list[str]:
    own = [one for one in parser._actions if one.dest not in _OF_DJANGO]  # noqa: SLF001  argparse has no other way
    rows = [_option(one) for one in own if not isinstance(one, argparse._SubParsersAction)]  # noqa: SLF001
    lines = ["| Option | Default | Meaning |", "|---|---|---|", *rows, ""] if rows else []
    for one in own:
        if isinstance(one, argparse._SubParsersAction):  # noqa: SLF001
            helps = {choice.dest: choice.help or "" for choice in one._choices_actions}  # noqa: SLF001
            for word, below in one.choices.items():
                lines += [f"### `{name} {word}`", ""]
                lines += [_sentence(helps[word]), ""] if helps.get(word) else []
                lines += _options(below, f"{name} {word}")
    return lines


def _option(one: argparse.Action) -> str:
    value = one.metavar if isinstance(one.metavar, str) else one.dest.upper()
    if one.choices is not None:
        value = "{" + ",".join(str(choice) for choice in one.choices) + "}"
    named = one.option_strings or [value]
    takes = f" {value}" if one.option_strings and one.nargs != 0 else ""
    shown = "" if one.default in (None, False, True, [], argparse.SUPPRESS) or not one.option_strings else one.default
    shown = _FROM_SETTINGS.get(named[0], " ".join(map(str, shown)) if isinstance(shown, list) else shown)
    told = (one.help or "").replace("%(default)s", str(one.default)).replace("%%", "%")
    default = "required" if one.required and one.option_strings else f"`{shown}`" if shown != "" else ""
    words = ", ".join(f"`{name}{takes}`" for name in named)
    return f"| {_cell(words)} | {_cell(default)} | {_cell(told)} |"


def _cell(text: object) -> str:
    return " ".join(str(text or "").split()).replace("|", "\\|")


def endpoints_page() -> str:
    """Of the OpenAPI document: every endpoint, its parameters, and the fields of its body."""
    from drf_spectacular.generators import SchemaGenerator

    document: dict[str, Any] = SchemaGenerator().get_schema(public=True)  # type: ignore[no-untyped-call]
    lines = [_ENDPOINTS]
    area = ""
    for path, item in sorted(document["paths"].items()):
        short = path.removeprefix("/admin/v1/")
        if (here := short.partition("/")[0]) != area:
            area = here
            lines += [f"## {_AREAS.get(area, area.replace('-', ' ').capitalize())}", ""]
        for method in _METHODS:
            if method in item:
                lines += [f"### `{method.upper()} {path}`", "", *_endpoint(item[method], document)]
    return "\n".join(lines).rstrip() + "\n"


def _endpoint(operation: Mapping[str, Any], document: Mapping[str, Any]) -> Iterator[str]:
    if operation.get("description"):
        yield from (_sentence(operation["description"].partition("\n\n")[0]), "")
    rows = [
        (f"`{one['name']}`", one["in"], _kind(one["schema"], document), one.get("description", ""))
        for one in operation.get("parameters", [])
        if one["in"] != "path"
    ]
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    body = _resolved(body, document)
    needed = body.get("required", [])
    for name, field in body.get("properties", {}).items():
        if not field.get("readOnly"):
            place = "body, required" if name in needed else "body"
            rows.append((f"`{name}`", place, _kind(field, document), field.get("description", "")))
    if rows:
        yield from ("| Name | In | Kind | Meaning |", "|---|---|---|---|")
        yield from (f"| {' | '.join(_cell(_first(cell)) for cell in row)} |" for row in rows)
        yield ""


def _first(text: str) -> str:
    """Without the list of choices that follows."""
    return text.partition("\n\n")[0] if not text.startswith("* ") else ""


def _resolved(schema: Mapping[str, Any], document: Mapping[str, Any]) -> Mapping[str, Any]:
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def _kind(schema: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    schema = _resolved(schema, document)
    for several in ("allOf", "oneOf", "anyOf"):
        if several in schema:
            return " or ".join(dict.fromkeys(_kind(one, document) for one in schema[several]))
    if "enum" in schema:
        return ", ".join(f"`{one}`" for one in schema["enum"] if one not in ("", None))
    kind = schema.get("type", "any")
    kinds = [one for one in ([kind] if isinstance(kind, str) else kind) if one != "null"]
    shown = " or ".join(schema.get("format", one) if one == "string" else one for one in kinds)
    if kinds == ["array"]:
        shown = f"list of {_kind(schema.get('items', {}), document)}"
    least, most = schema.get("minimum"), schema.get("maximum")
    if least is not None and most is not None:
        shown += f", {least:g} to {most:g}" if abs(most) < 1e6 else f", from {least:g} on"
    return shown


PAGES: Final[dict[str, Callable[[], str]]] = {
    "docs/reference/commands.md": commands_page,
    "docs/reference/admin-api-endpoints.md": endpoints_page,
}
