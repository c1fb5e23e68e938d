"""`steercache eval`: chosen on the search split, compared on the test split, beside controls; the ledger of looks."""
