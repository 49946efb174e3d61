"""Latency as a cost: measure operators at sites and whole networks in onnxruntime, store and check the results."""
