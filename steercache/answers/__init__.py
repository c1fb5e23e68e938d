"""Answers, by the cheapest way: batches of questions, every setting branched, replayed or run in full, every answer stored."""
