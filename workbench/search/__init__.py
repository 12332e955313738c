"""Better schedules and splits for given costs, with bounds on how good any can be."""

from .result import SearchResult
from .schedules import search_schedules
from .splits import search_splits
from .table import ScheduleTable, compare_schedules

__all__ = [
    "ScheduleTable",
    "SearchResult",
    "compare_schedules",
    "search_schedules",
    "search_splits",
]
