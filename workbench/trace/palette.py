"""Colours and names of what is drawn; one place for SVG, Plotly and the canvas.

Okabe and Ito's colours, which colour-blind people tell apart; letters are the second
channel.
"""

from __future__ import annotations

KIND_COLOURS: dict[str, str] = {
    "F": "#56B4E9",
    "I": "#009E73",
    "B": "#009E73",
    "W": "#E69F00",
    "R": "#CC79A7",
    "REDUCE_GRAD": "#999999",
    "OPT_STEP": "#999999",
}
WAIT_COLOUR = "#D0D0D0"

#: Causes of idle time, in the order in which they are told apart, with their colours.
CAUSE_COLOURS: dict[str, str] = {
    "compute": "#56B4E9",
    "recompute": "#CC79A7",
    "synchronisation": "#999999",
    "exposed_communication": "#D55E00",
    "warmup": "#F0E442",
    "cooldown": "#E69F00",
    "steady": "#0072B2",
    "engine_overhead": "#000000",
}
