"""What only book/multi_head.ipynb uses: its tasks and models, the measurement of many seeds, and its figures."""
