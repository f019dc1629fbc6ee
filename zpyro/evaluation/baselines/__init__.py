"""Simple models to compare with: Gaussian and linear, pixel tables, n-grams, forecasters."""
