"""The training loop: phases, epochs and batches, with callbacks and resuming."""

from jaxtune.loop.callbacks import Callback as Callback
from jaxtune.loop.callbacks import CSVLogger as CSVLogger
from jaxtune.loop.callbacks import EarlyStopping as EarlyStopping
from jaxtune.loop.callbacks import JSONLogger as JSONLogger
from jaxtune.loop.callbacks import LambdaCallback as LambdaCallback
from jaxtune.loop.callbacks import ReduceLROnPlateau as ReduceLROnPlateau
from jaxtune.loop.callbacks import SaveBest as SaveBest
from jaxtune.loop.callbacks import StopPhase as StopPhase
from jaxtune.loop.callbacks import StopTraining as StopTraining
from jaxtune.loop.events import FitEvents as FitEvents
from jaxtune.loop.fit import fit as fit
from jaxtune.loop.history import History as History
from jaxtune.loop.history import Row as Row
from jaxtune.loop.memory import OutOfMemoryError as OutOfMemoryError
from jaxtune.loop.processes import RunStopped as RunStopped
from jaxtune.loop.trainer import NonFiniteLossError as NonFiniteLossError
from jaxtune.loop.trainer import Trainer as Trainer
