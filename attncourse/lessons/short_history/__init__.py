"""What only book/short_history.ipynb uses: five scores trained on one task, how they are measured, and the pictures."""
