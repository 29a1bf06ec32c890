"""Marks as other programs take them: tables, Canvas, Moodle, nbgrader's gradebook."""
