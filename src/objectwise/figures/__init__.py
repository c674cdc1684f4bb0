"""One function per figure: arrays in, a matplotlib figure out."""

from objectwise.figures.boxes import boxes_figure
from objectwise.figures.completion import completion_figure
from objectwise.figures.components import component_vae_figure
from objectwise.figures.confusion import confusion_figure
from objectwise.figures.costs import cost_figure
from objectwise.figures.curves import curves_figure
from objectwise.figures.decomposition import decomposition_figure
from objectwise.figures.failures import GalleryPanel, failures_figure, gallery_caption, worst_rows
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
from objectwise.figures.masks import masks_figure
from objectwise.figures.parts import parts_figure
from objectwise.figures.refinement import refinement_figure
from objectwise.figures.refinement_inputs import refinement_inputs_figure
from objectwise.figures.report import Section, Table, write_report
from objectwise.figures.samples import samples_figure
from objectwise.figures.seed_scores import seed_scores_figure
from objectwise.figures.seeds import seeds_figure
from objectwise.figures.slots import slots_figure
from objectwise.figures.steps import steps_figure
from objectwise.figures.style import figure_png, figure_rgb
from objectwise.figures.swaps import swaps_figure
from objectwise.figures.views import views_figure
from objectwise.figures.visual_concepts import (
    beta_size_map_figure,
    density_figure,
    mean_response_figure,
    recombination_figure,
)

__all__ = [
    "GalleryPanel",
    "Section",
    "Table",
    "beta_figure",
    "beta_size_map_figure",
    "boxes_figure",
    "capacity_figure",
    "code_matrix_figure",
    "completion_figure",
    "component_vae_figure",
    "confusion_figure",
    "cost_figure",
    "curves_figure",
    "decomposition_figure",
    "density_figure",
    "failures_figure",
    "figure_png",
    "figure_rgb",
    "gallery_caption",
    "gradient_variance_figure",
    "label_efficiency_figure",
    "masks_figure",
    "mean_response_figure",
    "parts_figure",
    "posterior_std_figure",
    "rate_distortion_figure",
    "recombination_figure",
    "refinement_figure",
    "refinement_inputs_figure",
    "samples_figure",
    "seed_scores_figure",
    "seeds_figure",
    "slots_figure",
    "steps_figure",
    "swaps_figure",
    "traversal_figure",
    "views_figure",
    "worst_rows",
    "write_report",
]
