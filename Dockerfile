# The course with all that its chapters, tests and grading need.
#
#   docker build --tag attncourse .
#   docker run --rm --publish 8888:8888 attncourse
#
# The sandbox of `attncourse grade` needs user namespaces, which a container forbids unless it is told otherwise.
FROM python:3.11-slim-trixie AS system
# Debian keeps no old versions that could be pinned.
# hadolint ignore=DL3008
RUN apt-get update \
  && apt-get install --yes --no-install-recommends bubblewrap git make \
  && rm -rf /var/lib/apt/lists/* \
  && useradd --create-home --shell /bin/bash --uid 1000 learner
USER 1000

FROM system AS course
WORKDIR /home/learner/course
COPY --chown=learner . .
# make takes torch first and by its exact pin. An index with PyTorch's build for processors makes the image gigabytes smaller.
ARG PIP_EXTRA_INDEX_URL=
RUN make .venv/.installed && rm -rf /home/learner/.cache
EXPOSE 8888
CMD [".venv/bin/jupyter", "lab", "--ip=0.0.0.0", "--no-browser"]
