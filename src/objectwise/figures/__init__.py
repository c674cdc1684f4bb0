"""One function per figure: arrays in, a matplotlib figure out."""

from objectwise.figures.boxes import boxes_figure
from objectwise.figures.confusion import confusion_figure
from objectwise.figures.curves import curves_figure
from objectwise.figures.decomposition import decomposition_figure
from objectwise.figures.gradient_variance import gradient_variance_figure
from objectwise.figures.label_efficiency import label_efficiency_figure
from objectwise.figures.latents import (
    beta_figure,
    capacity_figure,
    code_matrix_figure,
    posterior_std_figure,
    rate_distortion_figure,
    traversal_figure,
)
from objectwise.figures.parts import parts_figure
from objectwise.figures.report import Section, Table, write_report
from objectwise.figures.samples import samples_figure
from objectwise.figures.seeds import seeds_figure
from objectwise.figures.steps import steps_figure
from objectwise.figures.style import figure_png, figure_rgb
from objectwise.figures.visual_concepts import (
    beta_size_map_figure,
    density_figure,
    mean_response_figure,
    recombination_figure,
)

__all__ = [
    "Section",
    "Table",
    "beta_figure",
    "beta_size_map_figure",
    "boxes_figure",
    "capacity_figure",
    "code_matrix_figure",
    "confusion_figure",
    "curves_figure",
    "decomposition_figure",
    "density_figure",
    "figure_png",
    "figure_rgb",
    "gradient_variance_figure",
    "label_efficiency_figure",
    "mean_response_figure",
    "parts_figure",
    "posterior_std_figure",
    "rate_distortion_figure",
    "recombination_figure",
    "samples_figure",
    "seeds_figure",
    "steps_figure",
    "traversal_figure",
    "write_report",
]
