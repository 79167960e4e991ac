"""Sequential and Discretized Integrated Gradients in Captum's verbs, and their engine."""
