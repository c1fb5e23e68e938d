"""What is asked and how an answer is read: questions in a model's own form, scoring rules, a setting against the baseline."""
