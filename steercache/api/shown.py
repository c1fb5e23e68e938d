"""Texts of users and data sets as pages show them."""

from steercache.core.shown_text import visible as visible

__all__ = ["visible"]
