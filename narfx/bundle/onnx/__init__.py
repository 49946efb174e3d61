"""Writing and reading ONNX files: names, opset, metadata, and marks that link ONNX nodes to graph nodes."""
