"""Everything that needs a GPU, in minutes: kernels against float64, times beside what a user would take instead, chapters.

`bash gpu.sh OUT`, or `make gpu`, runs it: see `python -m benchmarks --help`.
"""
