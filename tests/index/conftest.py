"""Here every new index is made by the migrations."""

import pytest


@pytest.fixture(autouse=True)
def by_migrations(real_migrations: None) -> None:
    """No copies of a migrated index."""
