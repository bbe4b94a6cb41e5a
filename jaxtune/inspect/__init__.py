"""Looking inside a network: summary, plan, what moved, Grad-CAM, kernels."""

from jaxtune.inspect.diff import FrozenMovedError as FrozenMovedError
from jaxtune.inspect.diff import tree_diff as tree_diff
from jaxtune.inspect.gradcam import GradCam as GradCam
from jaxtune.inspect.gradcam import grad_cam as grad_cam
from jaxtune.inspect.gradcam import plot_grad_cams as plot_grad_cams
from jaxtune.inspect.kernels import first_layer_kernels as first_layer_kernels
from jaxtune.inspect.plan import plan_phases as plan_phases
from jaxtune.inspect.summary import summarize as summarize
