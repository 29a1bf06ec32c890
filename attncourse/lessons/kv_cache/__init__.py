"""What only book/kv_cache.ipynb uses: its models, figures, study, and the measured memory hierarchy."""
