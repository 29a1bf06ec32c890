"""Which attention for which job: designs ranked by the cost model, each with its reasons and its numbers."""

from .designs import DESIGNS, Costs, Design
from .job import Job, Shape, roofline_of
from .rank import Choice, choose

__all__ = ["DESIGNS", "Choice", "Costs", "Design", "Job", "Shape", "choose", "roofline_of"]
