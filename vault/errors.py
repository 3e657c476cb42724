"""What the vault may answer instead of doing what it was asked.

VaultError
  VaultLocked        no key is in memory
  WrongPassword      the data key does not unwrap with it
  WeakPassword       shorter than 8 characters, where one is set
  NotInitialized     there is no vault yet
  AlreadyInitialized there is one
  TooManyAttempts    retry_after_seconds says when the next one is looked at
  ServerNotRunning   nobody listens on the control socket
  Damaged            a record fails its authentication: changed, swapped or cut
"""

from __future__ import annotations


class VaultError(Exception):
    """`message` is fit for an operator and holds no secret."""

    message = "The vault failed."

    def __init__(self, message: str = "") -> None:
        self.message = message or self.message
        super().__init__(self.message)


class VaultLocked(VaultError):
    message = (
        "The vault is locked. Unlock it in the admin, with `manage.py vault unlock`, or by TOKENHUB_VAULT_PASSWORD."
    )


class WrongPassword(VaultError):
    message = "This is not the vault's password. Nothing was changed."


class WeakPassword(VaultError):
    message = "The vault's password needs at least 8 characters."


class NotInitialized(VaultError):
    message = "There is no vault yet. `manage.py vault init` or the first unlock in the admin makes one."


class AlreadyInitialized(VaultError):
    message = "The vault is initialised already. `manage.py vault rotate` changes its password."


class TooManyAttempts(VaultError):
    def __init__(self, retry_after_seconds: float) -> None:
        self.retry_after_seconds = retry_after_seconds
        super().__init__(f"Too many wrong passwords. Try again in {retry_after_seconds:.0f} seconds.")


class Damaged(VaultError):
    message = "A sealed record does not open: it was changed, cut, or moved from another place."


class ServerNotRunning(VaultError):
    message = "No server is running on this data folder."
