"""Looking inside a network: summary, plan, differences, Grad-CAM, kernels."""
