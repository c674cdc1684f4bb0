"""The published experiments, end to end: this table names them all.

Adding one: a module with a :class:`objectwise.studies.study.Study`, and its line here. The first line of its docstring is what
``objectwise reproduce --help`` shows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from objectwise.core.imports import from_table

if TYPE_CHECKING:
    from objectwise.studies.study import Study

STUDIES: dict[str, str] = {
    "air-counting": "objectwise.studies.air_counting:AirCounting",
    "air-estimators": "objectwise.studies.air_estimators:AirEstimators",
    "air-generalization": "objectwise.studies.air_generalization:AirGeneralization",
    "air-representation": "objectwise.studies.air_representation:AirRepresentation",
    "air-omniglot": "objectwise.studies.air_omniglot:AirOmniglot",
    "air-robustness": "objectwise.studies.air_robustness:AirRobustness",
    "air-3d-single": "objectwise.studies.air_3d_single:Air3dSingle",
    "air-3d-table": "objectwise.studies.air_3d_table:Air3dTable",
    "balls": "objectwise.studies.balls:Balls",
    "early-concepts": "objectwise.studies.early_concepts:EarlyConcepts",
    "disentanglement-metrics": "objectwise.studies.disentanglement_metrics:DisentanglementMetrics",
    "iterative-inference": "objectwise.studies.iterative_inference:IterativeInference",
    "iodine-decomposition": "objectwise.studies.iodine_decomposition:IodineDecomposition",
    "iodine-generalization": "objectwise.studies.iodine_generalization:IodineGeneralization",
    "iodine-ablations": "objectwise.studies.iodine_ablations:IodineAblations",
    "iodine-disentanglement": "objectwise.studies.iodine_disentanglement:IodineDisentanglement",
    "monet-two-shapes": "objectwise.studies.monet_two_shapes:MonetTwoShapes",
    "monet-decomposition": "objectwise.studies.monet_decomposition:MonetDecomposition",
    "monet-masks": "objectwise.studies.monet_masks:MonetMasks",
    "monet-generalization": "objectwise.studies.monet_generalization:MonetGeneralization",
}
"""Name -> study."""


def named_study(name: str) -> Study:
    """A study of the table (``study`` is the module of the protocol).

    Raises:
        UserError: for an unknown name, with the nearest right one.
    """
    made: Study = from_table("study", name, STUDIES)()
    return made
