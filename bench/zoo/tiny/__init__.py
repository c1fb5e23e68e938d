"""Training of *tiny*: a Gemma2 language model of sentences about scenes, and the PaliGemma2 grown from it; a few MB."""
