"""Tomorrow's ranks: who predicts, from which days, what a book would trade, and what should make one doubt it."""
