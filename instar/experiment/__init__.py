"""Experiment: what is learnt from what. YAML becomes one typed, frozen value; every mistake is reported at once."""

from instar.experiment.data import Columns, Data, Index, Pairs, Positive, Share, Split, absolute
from instar.experiment.identity import differences, flat, place_for, signature
from instar.experiment.reading import OWN, document, load, locate, read_document, schema
from instar.experiment.recipe import Experiment, Mlperf, Trackers
from instar.experiment.training import OnNan, StopEarly, Train

__all__ = [
    "OWN",
    "Columns",
    "Data",
    "Experiment",
    "Index",
    "Mlperf",
    "OnNan",
    "Pairs",
    "Positive",
    "Share",
    "Split",
    "StopEarly",
    "Trackers",
    "Train",
    "absolute",
    "differences",
    "document",
    "flat",
    "load",
    "locate",
    "place_for",
    "read_document",
    "schema",
    "signature",
]
