"""What only book/sliding_window.ipynb uses: its character models and its recall task, their study, and its figures."""
