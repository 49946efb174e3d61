"""bundle/onnx."""
