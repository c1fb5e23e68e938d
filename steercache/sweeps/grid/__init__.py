"""`steercache grid`: a sweep run exactly or raced, the same search for null directions, and what replaces the grid."""
