"""ONNX files and ONNX Runtime: limits on untrusted files, reading, graphs that can be saved, and sessions."""
