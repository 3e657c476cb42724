"""A module here is a mode of `/v1/plan`, named by its MODE; there is no other list. See `orchestration.registry`."""
