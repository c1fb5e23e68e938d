"""*demo*: the real SmolLM2-135M inside the real Idefics3 class, with a vision tower and connector trained here."""
