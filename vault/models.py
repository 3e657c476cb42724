"""Sealed records only: what is stored here is useless without the vault's password."""

from __future__ import annotations

import uuid

from django.db import models


class VaultState(models.Model):
    """The one row that says how the data key is wrapped. No row: the vault is not initialised."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1, editable=False)
    vault_id = models.UUIDField(default=uuid.uuid4, editable=False)
    passes = models.PositiveSmallIntegerField()
    memory_kib = models.PositiveIntegerField()
    lanes = models.PositiveSmallIntegerField()
    salt = models.BinaryField(max_length=16)
    wrapped_data_key = models.BinaryField(max_length=128)
    initialized_at = models.DateTimeField(auto_now_add=True)
    rotated_at = models.DateTimeField(null=True)

    class Meta:
        verbose_name = verbose_name_plural = "vault"
        constraints = [models.CheckConstraint(condition=models.Q(id=1), name="vaultstate_single_row")]

    def __str__(self) -> str:
        return "vault"


class Secret(models.Model):
    """One sealed value. `id` and `name` are bound into the ciphertext: a record that is swapped does not open."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=260, unique=True)
    sealed = models.BinaryField(help_text="nonce, ciphertext and tag")
    fingerprint = models.CharField(max_length=16, help_text="Tells two values apart without showing either.")
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)
    last_used_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name
