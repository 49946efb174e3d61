"""Graphs: trace a module with ``torch.fx``, compare the trace with the model, and measure its cost."""
