"""What only book/soft_and_hard.ipynb uses: the task of the needle with its readers, and its figures."""
