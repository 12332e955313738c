"""Better schedules and splits for given costs, with bounds on how good any can be."""

from .result import SearchResult
from .schedules import search_schedules

__all__ = ["SearchResult", "search_schedules"]
