"""CostModel: what an action costs, per stage and kind, and what a message costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..schedule import Action, Kind
from ..trace import WAIT_LANE, Trace

Floats = npt.NDArray[np.float64]
Cost = float | Sequence[float] | Floats

#: Columns of ``CostModel.times``.
COSTED = (Kind.F, Kind.I, Kind.W, Kind.R, Kind.REDUCE_GRAD, Kind.OPT_STEP)
_COLUMN = {kind: i for i, kind in enumerate(COSTED)}


@dataclass(frozen=True, eq=False)
class CostModel:
    """Costs in any unit of time.

    times: (stages, 6) for F, I, W, R, REDUCE_GRAD, OPT_STEP; a model with one row holds
    for every stage. A full backward B costs I + W. ``hop`` is the latency of a message
    between two ranks; the sender is not blocked by it, and on one rank there is none.
    ``overlap`` is the cost of an F and a B run together (None: their sum).
    """

    times: Floats
    hop: float = 0.0
    overlap: float | None = None
    unit: str = "unit"

    def __post_init__(self) -> None:
        times = np.array(self.times, dtype=np.float64)
        if times.ndim != 2 or times.shape[1] != len(COSTED):
            raise ValueError(
                f"times must be (stages, {len(COSTED)}), got {times.shape}"
            )
        if not np.isfinite(times).all() or (times < 0).any():
            raise ValueError("costs must be finite and not negative")
        for name in ("hop", "overlap"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < np.inf:
                raise ValueError(
                    f"{name} must be finite and not negative, got {value!r}"
                )
        times.flags.writeable = False
        object.__setattr__(self, "times", times)

    @classmethod
    def uniform(
        cls,
        *,
        F: Cost = 1.0,
        I: Cost = 1.0,
        W: Cost = 1.0,
        R: Cost | None = None,
        hop: float = 0.0,
        overlap: float | None = None,
        reduce: Cost = 0.0,
        optimizer: Cost = 0.0,
    ) -> CostModel:
        """Costs per stage: a number for all stages, or one number per stage.

        R defaults to F. Raises ValueError for negative costs or lists of different
        lengths.
        """
        columns = [F, I, W, F if R is None else R, reduce, optimizer]
        try:
            rows = np.broadcast_arrays(*(np.atleast_1d(c) for c in columns))
        except ValueError:
            lengths = [np.size(c) for c in columns]
            raise ValueError(
                f"F, I, W, R, reduce and optimizer have {lengths} entries; give one number, "
                "or one per stage"
            ) from None
        return cls(np.stack(rows, axis=1).astype(np.float64), hop, overlap)

    @classmethod
    def from_trace(cls, trace: Trace) -> CostModel:
        """Medians of the durations in a trace, per stage and kind, in the trace's unit.

        B is shared out evenly between I and W, since a trace of full backwards does not
        tell them apart. The hop is the median time from a send's end to its receive's
        end where the receiver was waiting, 0 for threads that hand pointers over.
        Raises ValueError for a trace in which a stage has no forward.
        """
        if not len(trace):
            raise ValueError("the trace is empty: there is nothing to take costs from")
        num_stages = int(trace.metadata.get("num_stages", trace.stage.max() + 1))
        times = np.zeros((num_stages, len(COSTED)))
        for stage in range(num_stages):
            forward = trace.durations(Kind.F, stage)
            if not len(forward):
                raise ValueError(f"the trace has no forward of stage {stage}")
            full = trace.durations(Kind.B, stage)
            if len(full):
                half = float(np.median(full)) / 2
                times[stage, _COLUMN[Kind.I]] = times[stage, _COLUMN[Kind.W]] = half
            for kind in COSTED:
                found = trace.durations(kind, stage)
                if len(found):
                    times[stage, _COLUMN[kind]] = float(np.median(found))
        return cls(times, _hop(trace), None, trace.unit)

    @property
    def num_stages(self) -> int | None:
        """Stages it is for; None when one row holds for every stage."""
        return None if len(self.times) == 1 else len(self.times)

    @property
    def has_optimizer(self) -> bool:
        """Whether the step's end costs anything."""
        return bool(self.times[:, _COLUMN[Kind.REDUCE_GRAD] :].any())

    def seconds(self, action: Action) -> float:
        """The cost of an action, in ``unit``; 0.0 for communication.

        Raises ValueError for a stage the model has no row for.
        """
        if len(self.times) > 1 and not 0 <= action.stage < len(self.times):
            raise ValueError(f"{action}: the costs are for {len(self.times)} stages")
        row = self.times[action.stage if len(self.times) > 1 else 0]
        if action.kind is Kind.B:
            return float(row[_COLUMN[Kind.I]] + row[_COLUMN[Kind.W]])
        column = _COLUMN.get(action.kind)
        return 0.0 if column is None else float(row[column])

    def __repr__(self) -> str:
        stages = self.num_stages or "any number of"
        return f"CostModel({stages} stages, hop={self.hop:g}, unit={self.unit!r})"

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{kind}</th>" for kind in COSTED)
        body = "".join(
            f"<tr><td>{'all' if len(self.times) == 1 else stage}</td>"
            + "".join(f"<td>{value:.6g}</td>" for value in row)
            + "</tr>"
            for stage, row in enumerate(self.times)
        )
        return (
            f"<table><thead><tr><th>stage</th>{head}</tr></thead><tbody>{body}</tbody>"
            f"<caption>costs in {self.unit}, hop {self.hop:.6g}</caption></table>"
        )


def _hop(trace: Trace) -> float:
    """Median time a message was on its way while its receiver waited for it."""
    from ..trace.report import send_ends

    receives = trace.of_kind(Kind.RECV_F, Kind.RECV_B) & (trace.lane == WAIT_LANE)
    sent = send_ends(trace)[receives]
    waited = trace.start[receives] < sent
    flight = (trace.end[receives] - sent)[waited]
    return float(np.median(flight)) * trace.tick if len(flight) else 0.0
