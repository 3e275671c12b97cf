"""Export: trained streaming models as verified bundles for sherpa-onnx, onnxruntime and torch."""
