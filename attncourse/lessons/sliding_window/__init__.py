"""What only book/sliding_window.ipynb uses: its figures."""
