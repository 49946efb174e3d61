"""What users give: model references, weights, paths and their own Python code."""
