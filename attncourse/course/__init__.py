"""The instructor's desk: what there is to work on, what a class is handed, and what authors write it with."""
