"""Running models: whole utterances, live streams, and files, with torch, onnxruntime or torch.export."""
