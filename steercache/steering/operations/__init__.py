"""Operations on hidden states: `change` resolves the numbers of an operation, `apply` is the one place where it is applied."""
