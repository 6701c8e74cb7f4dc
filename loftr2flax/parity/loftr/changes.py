"""Stub: known mistakes."""

from typing import Any


def explain_with(state: Any, config: Any, coarse_only: bool) -> Any:
    """Nothing yet."""
    return None
