"""What is shown: a page for each learner, and a report on the class."""
