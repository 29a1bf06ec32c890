"""What only book/real_systems.ipynb uses: encoders, a reader of passages, pictures with their model, and its figures."""
