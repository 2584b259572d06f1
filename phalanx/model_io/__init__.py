"""Models out and in: state dicts as safetensors, whole models as a folder, ONNX."""
