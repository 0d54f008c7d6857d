"""The dataset doctor: finds the flaws of a dataset before training starts.

    dataset = dataset_from_folder(Path("data/mine"))
    report = check_data(dataset)
    for finding in report.findings:
        print(finding.severity, finding.code, finding.message)

Each file is decoded once, in several processes if wanted; then all samples are compared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rsseg_tf.doctor.dataset import CheckedDataset, Expectation, Split, dataset_from_config, dataset_from_folder
from rsseg_tf.doctor.evidence import Evidence
from rsseg_tf.doctor.findings import KINDS, SEVERITIES, Finding, Kind, Severity
from rsseg_tf.doctor.fingerprints import MAX_DISTANCE
from rsseg_tf.doctor.report import FORMAT, ClassCount, Report, SplitSummary, check_data
from rsseg_tf.doctor.samples import ImageFacts, LabelFacts, SampleFacts, inspect_sample
from rsseg_tf.doctor.sheet import SHEET_SUFFIXES, write_sheet
from rsseg_tf.doctor.statistics import inverse_log_weights, median_frequency_weights
from rsseg_tf.moved import moved_name
from rsseg_tf.rasters.statistics import Moments

__all__ = [
    "FORMAT",
    "KINDS",
    "MAX_DISTANCE",
    "SEVERITIES",
    "SHEET_SUFFIXES",
    "CheckedDataset",
    "ClassCount",
    "Evidence",
    "Expectation",
    "Finding",
    "ImageFacts",
    "Kind",
    "LabelFacts",
    "Moments",
    "Report",
    "SampleFacts",
    "Severity",
    "Split",
    "SplitSummary",
    "check_data",
    "dataset_from_config",
    "dataset_from_folder",
    "inspect_sample",
    "inverse_log_weights",
    "median_frequency_weights",
    "write_sheet",
]

if not TYPE_CHECKING:  # a type checker shall tell wrong names

    def __getattr__(name: str) -> Any:
        return moved_name(__name__, name)
