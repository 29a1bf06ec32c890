"""What only book/kv_cache.ipynb uses: its models, its figures and its study."""
