# An image in which both commands run:
#
#   docker build -t normbench .
#   docker run --rm -v "$PWD/results:/normbench/results" normbench             # make results; its tables stay here
#   docker run --rm --shm-size=2g normbench make test                          # Ray, in the tests, wants shared memory
#   docker run --rm --gpus all -v "$PWD/results:/normbench/results" normbench \
#     sh -c "normbench suite cifar10 && make results"
#
# A GPU takes the NVIDIA driver and the NVIDIA Container Toolkit on the host, and no other base image: torch's wheels
# bring CUDA themselves, which is most of the several GB here. Without --gpus the same image computes on the CPU.
#
# What is trained is lost with the container, unless volumes keep it: -v normbench-runs:/normbench/runs (the run store),
# -v normbench-cache:/normbench/.dvc/cache (DVC's cache), -v normbench-downloads:/normbench/downloads (archives).

# The tools alone; .devcontainer/ builds this stage and makes the environment in the mounted working tree.
FROM python:3.12-slim-bookworm AS tools

# git for DVC, g++ for `compile:` in a recipe, libgl1 and libglib2.0-0 for OpenCV's wheel.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends g++ git libgl1 libglib2.0-0 make \
 && rm -rf /var/lib/apt/lists/*

FROM tools

WORKDIR /normbench
COPY . .

# DVC needs a git repository. The one that was copied stays, as every record names its revision; an archive of the
# source has none, and the .git of a worktree is a file that points to nowhere here.
RUN git rev-parse --git-dir > /dev/null 2>&1 || { rm -rf .git && git init --quiet . ; }

# What uv and pip fetch is kept between builds, and is not in the image.
RUN --mount=type=cache,target=/cache UV_CACHE_DIR=/cache/uv PIP_CACHE_DIR=/cache/pip UV_LINK_MODE=copy make env

ENV PATH=/normbench/.venv/bin:$PATH
CMD ["make", "results"]
