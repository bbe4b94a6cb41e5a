"""What can be wrong with a checkpoint.

The one rule of the file: both errors are raised before anything is returned.
"""


class CheckpointMismatchError(ValueError):
    """A checkpoint's arrays are not those asked for; both sides are listed."""


class CheckpointDamagedError(ValueError):
    """A checkpoint's files can't be read, or are not what was written."""
