"""sae-lens is imported here first: its dependencies warn as they are imported, and warnings are errors in the tests."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import sae_lens

__all__ = ["sae_lens"]
