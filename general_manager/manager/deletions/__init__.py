"""Deletions that are reported as their own DELETE statements say."""
