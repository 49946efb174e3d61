"""The proof that an ONNX file computes what its network computes: outputs, then single nodes."""
