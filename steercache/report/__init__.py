"""Pictures and pages, drawn from result tables. Altair is imported in this package only, and no result is computed here."""
