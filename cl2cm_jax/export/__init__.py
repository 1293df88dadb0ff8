"""Export a trained student as a bundle: weights, model card, ONNX and StableHLO, upload to the hub."""
