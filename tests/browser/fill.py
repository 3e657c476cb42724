"""Makes a few rows of every kind in a gateway's database, and prints one's primary key by `app.model` as JSON. A
process of its own, started by `fill` in conftest.py with the gateway's environment; the argument is how many."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tokenhub.settings")

import django

django.setup()

from tests.admin.samples import SAMPLES  # noqa: E402

made = {
    rows._meta.label_lower: [make(number) for number in range(1, int(sys.argv[1]) + 1)]
    for rows, make in SAMPLES.items()
}
print(json.dumps({label: str(rows[0].pk) for label, rows in made.items()}))
