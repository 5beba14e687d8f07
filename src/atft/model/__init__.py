"""Tensors in, scores out; no files, dates or tickers."""
