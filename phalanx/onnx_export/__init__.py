"""From the ops of one forward to an ONNX graph."""
