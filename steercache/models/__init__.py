"""Model families as a table, and loading a checkpoint from the hub, a folder or a GGUF file.

This room owns: which modules of a model carry the residual stream; turning a model manifest into a local folder of
safetensors; the model's fingerprint; tokenizer and processor. It refuses pickled weights, remote code, and checkpoints that
leave a weight uninitialised. It never runs a forward pass.
"""
