"""Rows of every kind of model: what a change of them does with and without us."""
