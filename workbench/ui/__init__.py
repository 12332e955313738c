"""Widgets for the notebook. Everything here has a plain-function twin in the other
rooms."""

from .freeze import static_html
from .timeline import Timeline
from .watch import watch

__all__ = ["Timeline", "static_html", "watch"]
