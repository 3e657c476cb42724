"""Fills a data folder's database from a description on standard input. Run as a process of its own, beside the server
that reads it; with `--many`, one that stays and takes a line for each: `{"env": …, "rows": …}`, answered by a line
`{"code": …, "error": …}`, each done by a fork with that environment. A description: `{"providers": [...],
"models": [...], "aliases": [...], "profiles": [...], "keys": [...], "projects": [...], "budgets": [...],
"prompts": [...], "superusers": [...], "delete_keys": [...]}`, rows by field name; a budget may say `of_key`."""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
import traceback
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tokenhub.settings")

import django

django.setup()

from django.conf import settings  # noqa: E402
from django.contrib.auth.models import User  # noqa: E402
from django.db import connections  # noqa: E402
from django.utils.functional import empty  # noqa: E402

from keys.models import Budget, ClientKey, Project  # noqa: E402
from orchestration.services import add_prompt  # noqa: E402
from providers.models import Provider  # noqa: E402
from routing.models import Alias, AliasVariant, Model, RoutingProfile  # noqa: E402
from vault import services as vault  # noqa: E402
from vault.keyring import KEYRING  # noqa: E402

UNTOUCHED = KEYRING._page[:]


def main(wanted: dict[str, Any]) -> None:
    for row in wanted.get("providers", []):
        credential = row.pop("credential", None)
        row.setdefault("cred_store", "vault" if credential else "none")
        provider, _ = Provider.objects.update_or_create(id=row.pop("id"), defaults=row)
        if credential:
            vault.open_from_environment()
            vault.put_secret(name=provider.secret_name, value=credential)
    for row in wanted.get("models", []):
        Model.objects.update_or_create(id=row.pop("id"), defaults=row)
    for row in wanted.get("aliases", []):
        variants = row.pop("variants")
        alias, _ = Alias.objects.update_or_create(name=row.pop("name"), defaults=row)
        alias.variants.all().delete()
        for variant in variants:
            AliasVariant.objects.create(alias=alias, **variant)
    for row in wanted.get("profiles", []):
        RoutingProfile.objects.update_or_create(name=row.pop("name"), defaults=row)
    for row in wanted.get("keys", []):
        key = row.pop("key")
        row.setdefault("name", "test")
        defaults = {"key_prefix": key[:16], **row}
        ClientKey.objects.update_or_create(digest=sha256(key.encode()).hexdigest(), defaults=defaults)
    for row in wanted.get("projects", []):
        Project.objects.update_or_create(name=row.pop("name"), defaults=row)
    for row in wanted.get("budgets", []):
        if name := row.pop("of_key", None):
            row["subject_id"] = str(ClientKey.objects.get(digest=sha256(name.encode()).hexdigest()).pk)
        defaults = {"amount_usd": Decimal(row.pop("amount_usd")), "every": row.pop("every", "total")}
        Budget.objects.update_or_create(**row, defaults=defaults)
    for row in wanted.get("prompts", []):
        add_prompt(**row)
    for row in wanted.get("superusers", []):
        User.objects.create_superuser(**row)
    for key in wanted.get("delete_keys", []):
        ClientKey.objects.filter(digest=sha256(key.encode()).hexdigest()).get().delete()


def serve() -> None:
    gc.freeze()  # what all forks share is not copied to be counted
    for line in sys.stdin:
        wanted = json.loads(line)
        with tempfile.TemporaryFile("w+") as errors:
            if not (child := os.fork()):
                os.dup2(errors.fileno(), 2)
                os._exit(done(wanted))
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            errors.seek(0)
            print(json.dumps({"code": code, "error": errors.read()}), flush=True)


def done(wanted: dict[str, Any]) -> int:
    """An exit code. To end a process as Python does would take ten times as long as the rest."""
    try:
        take(wanted["env"])
        main(wanted["rows"])
        connections.close_all()
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def take(env: dict[str, str]) -> None:
    """Settings as a process has them that was started with that environment."""
    os.environ.clear()
    os.environ.update(env, DJANGO_SETTINGS_MODULE="tokenhub.settings")
    KEYRING._page[:] = UNTOUCHED  # it is shared with forks
    del sys.modules["tokenhub.settings"]
    settings._wrapped = empty
    vars(connections).pop("settings", None)
    connections.__init__()  # type: ignore[misc]  # those of before have the settings of before


if __name__ == "__main__":
    if "--many" in sys.argv:
        serve()
    else:
        main(json.load(sys.stdin))
