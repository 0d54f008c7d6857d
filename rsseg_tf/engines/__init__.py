"""Engines: what can run a model on this machine, and which of it is the fastest that says the same."""

from rsseg_tf.engines.candidates import ENGINES, Candidate, available_threads, find_candidates, named_candidate
from rsseg_tf.engines.choosing import DEFAULT_TOLERANCE, Choice, choose
from rsseg_tf.engines.measuring import Measured

__all__ = [
    "DEFAULT_TOLERANCE",
    "ENGINES",
    "Candidate",
    "Choice",
    "Measured",
    "available_threads",
    "choose",
    "find_candidates",
    "named_candidate",
]
