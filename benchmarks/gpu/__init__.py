"""What half an hour on one CUDA GPU should tell; see `__main__.py`."""
