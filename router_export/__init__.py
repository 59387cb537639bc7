"""Export of trained routers to ONNX. Nothing is exported yet: the router comes with its own change."""
