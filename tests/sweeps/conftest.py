"""The shared cache and model of these tests."""

from tests.world import own_session, world

__all__ = ["own_session", "world"]
