"""What to do about a provider that cannot be asked, in the words of the set-up's own fields."""

from __future__ import annotations

from typing import Final

from providers.discovery import Look, Problem

OF_CREDENTIAL: Final = frozenset(
    {Problem.NO_CREDENTIAL, Problem.DAMAGED, Problem.UNAUTHORIZED, Problem.FORBIDDEN}
)  # a new API key may help
_OWN: Final = {
    Problem.NO_CREDENTIAL: "Give its API key.",
    Problem.VAULT_LOCKED: "Open the vault: it is the first step of the set-up.",
    Problem.BAD_ADDRESS: "Correct the Address.",
    Problem.UNAUTHORIZED: "The credential is wrong, expired, or of another service. Give the right one as API key.",
}


def hint(look: Look) -> str:
    if look.problem is None:
        return ""
    return _OWN.get(look.problem) or look.hint.replace("base_url", "Address")
