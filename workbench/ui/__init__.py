"""Widgets for the notebook. Everything here has a plain-function twin in the other
rooms."""

from .timeline import Timeline
from .watch import static_html, watch

__all__ = ["Timeline", "static_html", "watch"]
