"""Pure functions of tensors: labels and predictions in, a typed result out."""

from objectwise.metrics.counting import CountScores, collapse, count_scores, wilson_interval
from objectwise.metrics.parts import PartScores, mean_best_overlap, part_labels, part_scores, random_partition
from objectwise.metrics.probes import BUDGETS, ProbeResult, catches_up_at, codes_for_probe, probe, probe_images
from objectwise.metrics.reconstruction import foreground_mse, mse, psnr, sse
from objectwise.metrics.segmentation import (
    adjusted_rand_index,
    contingency,
    degenerate_advice,
    foreground_ari,
    labels_from_masks,
)

__all__ = [
    "BUDGETS",
    "CountScores",
    "PartScores",
    "ProbeResult",
    "adjusted_rand_index",
    "catches_up_at",
    "codes_for_probe",
    "collapse",
    "contingency",
    "count_scores",
    "degenerate_advice",
    "foreground_ari",
    "foreground_mse",
    "labels_from_masks",
    "mean_best_overlap",
    "mse",
    "part_labels",
    "part_scores",
    "probe",
    "probe_images",
    "psnr",
    "random_partition",
    "sse",
    "wilson_interval",
]
