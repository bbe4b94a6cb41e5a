"""The surgery: cut a body, build a head, name the layer groups."""

from jaxtune.transfer.classes import class_rows as class_rows
from jaxtune.transfer.classes import extend_outputs as extend_outputs
from jaxtune.transfer.classes import output_axes as output_axes
from jaxtune.transfer.classes import take_rows as take_rows
from jaxtune.transfer.cnn import create_cnn_model as create_cnn_model
from jaxtune.transfer.cuts import Cut as Cut
from jaxtune.transfer.cuts import create_body as create_body
from jaxtune.transfer.cuts import inspect_cuts as inspect_cuts
from jaxtune.transfer.cuts import num_features as num_features
from jaxtune.transfer.groups import Groups as Groups
from jaxtune.transfer.groups import L as L
from jaxtune.transfer.groups import default_groups as default_groups
from jaxtune.transfer.groups import dotted as dotted
from jaxtune.transfer.groups import group_labels as group_labels
from jaxtune.transfer.groups import params as params
from jaxtune.transfer.groups import split_groups as split_groups
from jaxtune.transfer.head import ConcatPool as ConcatPool
from jaxtune.transfer.head import Denormalize as Denormalize
from jaxtune.transfer.head import SigmoidRange as SigmoidRange
from jaxtune.transfer.head import create_head as create_head
from jaxtune.transfer.head import denormalizing as denormalizing
from jaxtune.transfer.running import check_runs as check_runs
from jaxtune.transfer.running import evaluating as evaluating
from jaxtune.transfer.running import listen as listen
from jaxtune.transfer.running import output_shape as output_shape
