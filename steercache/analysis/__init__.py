"""Further questions of arXiv 2505.14071 over a cache: colours, drift of the backbone, patches, own against backbone vectors."""
