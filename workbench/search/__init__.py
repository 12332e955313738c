"""Better schedules and splits for given costs, with bounds on how good any can be."""

from .result import SearchResult
from .schedules import search_schedules
from .splits import search_splits

__all__ = ["SearchResult", "search_schedules", "search_splits"]
