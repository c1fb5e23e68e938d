"""Model families, and loading a checkpoint from the hub, a folder or a GGUF file.

Owns the table of families (which modules carry the residual stream), the conversion of a manifest into a local folder
of safetensors, the fingerprint of the weights, tokenizer and processor. Pickled weights, remote code and checkpoints
that do not fill the whole model are refused. No forward pass is run here.
"""
