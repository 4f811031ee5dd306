"""One colour per label in every picture; chosen to stay apart for colour-blind readers."""

COLOURS = {
    "reference": "#000000",
    "SRC": "#555555",
    "NON": "#E69F00",
    "NOG": "#009E73",
    "ZO-weights": "#0072B2",
    "ZO-weights-scratch": "#56B4E9",
    "ZO-interface": "#D55E00",
    "SOL": "#CC79A7",
    "FO": "#555555",
    "FO-sparse-gradient": "#009E73",
    "FO-sparse-weights": "#E69F00",
    "CGE": "#56B4E9",
    "RGE": "#CC79A7",
    "DeepZero": "#0072B2",
}
