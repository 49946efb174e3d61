"""Bundles: lower an architecture, export it to ONNX, and prove that the ONNX file computes the same."""
