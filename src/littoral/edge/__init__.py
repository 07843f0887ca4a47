"""The device: inference, selection, outbox, updates and the link. ONNX Runtime; never torch."""
