"""Questions of arXiv 2505.14071 over finished caches: colours, drift of the backbone, patches, an MLLM's own vectors."""
