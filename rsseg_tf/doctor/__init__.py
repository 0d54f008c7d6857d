"""The dataset doctor: finds what is wrong with a dataset before hours of training do.

    target = target_from_folder(Path("data/mine"))
    report = check_data(target)
    for finding in report.findings:
        print(finding.severity, finding.code, finding.message)

Each file is decoded once, in several processes if wanted; then all samples are compared.
"""

from rsseg_tf.doctor.evidence import Evidence
from rsseg_tf.doctor.findings import KINDS, SEVERITIES, Finding, Kind, Severity
from rsseg_tf.doctor.fingerprints import MAX_DISTANCE
from rsseg_tf.doctor.report import FORMAT, ClassCount, Report, SplitSummary, check_data
from rsseg_tf.doctor.samples import ImageFacts, LabelFacts, SampleFacts, inspect_sample
from rsseg_tf.doctor.sheet import SHEET_SUFFIXES, write_sheet
from rsseg_tf.doctor.statistics import Moments, inverse_log_weights, median_frequency_weights
from rsseg_tf.doctor.targets import Expected, Split, Target, target_from_config, target_from_folder

__all__ = [
    "FORMAT",
    "KINDS",
    "MAX_DISTANCE",
    "SEVERITIES",
    "SHEET_SUFFIXES",
    "ClassCount",
    "Evidence",
    "Expected",
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
    "Target",
    "check_data",
    "inspect_sample",
    "inverse_log_weights",
    "median_frequency_weights",
    "target_from_config",
    "target_from_folder",
    "write_sheet",
]
