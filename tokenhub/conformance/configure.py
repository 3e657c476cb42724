"""`python -m tokenhub.conformance.configure`: fills the database of the suite's own gateway from the rows on standard
input. A process of its own, because the database is another than that of the command."""

from __future__ import annotations

import json
import os
import sys
from hashlib import sha256


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tokenhub.settings")
    import django

    django.setup()

    from keys.models import ClientKey
    from providers.models import Provider
    from routing.models import Model

    rows = json.load(sys.stdin)
    for row in rows["providers"]:
        Provider.objects.create(**row)
    for row in rows["models"]:
        Model.objects.create(**row)
    key = rows["key"]
    ClientKey.objects.create(name="conformance", digest=sha256(key.encode()).hexdigest(), key_prefix=key[:16])


if __name__ == "__main__":
    main()
