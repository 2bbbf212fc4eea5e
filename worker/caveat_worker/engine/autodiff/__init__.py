"""Gradients from ONNX graphs: a graph builder, derivative rules, the backward pass, and the checks of both."""
