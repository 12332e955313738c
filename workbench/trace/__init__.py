"""What happened, or would happen: traces, bubble reports, comparisons, files and
figures."""

from .compare import Comparison, compare
from .report import BubbleReport
from .trace import COLUMNS, COMPUTE_LANE, OPTIMIZER_LANE, WAIT_LANE, Trace

__all__ = [
    "COLUMNS",
    "COMPUTE_LANE",
    "OPTIMIZER_LANE",
    "WAIT_LANE",
    "BubbleReport",
    "Comparison",
    "Trace",
    "compare",
]
