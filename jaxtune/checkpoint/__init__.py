"""Checkpoints: a network's arrays and what is needed to use them, in Orbax's format."""

from jaxtune.checkpoint.atomic import check_replaceable as check_replaceable
from jaxtune.checkpoint.atomic import write_json as write_json
from jaxtune.checkpoint.atomic import write_text as write_text
from jaxtune.checkpoint.inspection import Contents as Contents
from jaxtune.checkpoint.inspection import inspect_checkpoint as inspect_checkpoint
from jaxtune.checkpoint.leaves import fingerprint as fingerprint
from jaxtune.checkpoint.leaves import fingerprint_text as fingerprint_text
from jaxtune.checkpoint.loading import load_checkpoint as load_checkpoint
from jaxtune.checkpoint.loading import load_meta as load_meta
from jaxtune.checkpoint.loading import load_opt_state as load_opt_state
from jaxtune.checkpoint.loading import load_raw as load_raw
from jaxtune.checkpoint.matching import (
    CheckpointMismatchError as CheckpointMismatchError,
)
from jaxtune.checkpoint.places import Place as Place
from jaxtune.checkpoint.places import in_storage as in_storage
from jaxtune.checkpoint.places import place_of as place_of
from jaxtune.checkpoint.run import RunFolder as RunFolder
from jaxtune.checkpoint.run import RunMismatchError as RunMismatchError
from jaxtune.checkpoint.run import check_run_folder as check_run_folder
from jaxtune.checkpoint.run import checkpoint_numbers as checkpoint_numbers
from jaxtune.checkpoint.run import environment as environment
from jaxtune.checkpoint.run import find_checkpoint as find_checkpoint
from jaxtune.checkpoint.run import is_run as is_run
from jaxtune.checkpoint.run import read_run as read_run
from jaxtune.checkpoint.run import resuming_from as resuming_from
from jaxtune.checkpoint.run import with_kept_thresholds as with_kept_thresholds
from jaxtune.checkpoint.run import write_thresholds as write_thresholds
from jaxtune.checkpoint.saving import Saving as Saving
from jaxtune.checkpoint.saving import save_checkpoint as save_checkpoint
from jaxtune.checkpoint.saving import save_checkpoint_async as save_checkpoint_async
from jaxtune.checkpoint.storage import CheckpointDamagedError as CheckpointDamagedError
