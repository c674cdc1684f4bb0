"""The contract: what data gives, what models say, and the configuration and errors everything shares."""

from objectwise.core.batch import Batch, FactorSpec
from objectwise.core.boxes import boxes_from_ids, boxes_from_instances
from objectwise.core.config import Config, first_sentence
from objectwise.core.conformance import ContractError, check_dataset, check_metric, check_model
from objectwise.core.dataset import SPLITS, Dataset, TrainingOrder
from objectwise.core.decomposition import Decoded, Decomposition, Posterior, presence_from_masks
from objectwise.core.errors import UserError, nearest
from objectwise.core.images import image_batch
from objectwise.core.metric import MetricResult
from objectwise.core.model import DEFAULT_GROUP, Model, SceneModel, is_batchwise, parameter_groups
from objectwise.core.randomness import ShardedGenerator, fixed_normals, normal, seed_for, uniform, uniforms
from objectwise.core.weights import load_weights, read_description, save_weights

__all__ = [
    "DEFAULT_GROUP",
    "SPLITS",
    "Batch",
    "Config",
    "ContractError",
    "Dataset",
    "Decoded",
    "Decomposition",
    "FactorSpec",
    "MetricResult",
    "Model",
    "Posterior",
    "SceneModel",
    "ShardedGenerator",
    "TrainingOrder",
    "UserError",
    "boxes_from_ids",
    "boxes_from_instances",
    "check_dataset",
    "check_metric",
    "check_model",
    "first_sentence",
    "fixed_normals",
    "image_batch",
    "is_batchwise",
    "load_weights",
    "nearest",
    "normal",
    "parameter_groups",
    "presence_from_masks",
    "read_description",
    "save_weights",
    "seed_for",
    "uniform",
    "uniforms",
]
