"""Test vectors for local response normalization, and a runner for several frameworks."""
