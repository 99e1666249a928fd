# AlexNet on CPUs, from this checkout: docker build -t alexnet .
# docs/deploy.md says how to use the image.
FROM python:3.11-slim

# g++ compiles the fast kernels at the first run, for the processor that they will run on. Its
# version is not pinned: Debian's archive keeps only the newest.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*

# The CPU build of PyTorch has a tenth of the size of the default one, which contains CUDA.
ENV PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1

# The largest dependency has a layer of its own, so that a change of the code does not repeat it.
WORKDIR /opt/alexnet
COPY constraints.txt ./
RUN python -m pip install -c constraints.txt torch

COPY pyproject.toml README.md LICENSE ./
COPY alexnet alexnet
COPY records/claims records/claims
COPY examples examples
RUN python -m pip install -c constraints.txt ".[export,serve]"

# Not root: a damaged image file must not reach more than its user may.
RUN useradd --create-home --uid 1000 alexnet
# Under another user (docker run --user) the home folder cannot be written; the compiled kernels are
# then kept here.
ENV XDG_CACHE_HOME=/tmp/cache
USER 1000
WORKDIR /home/alexnet
ENTRYPOINT ["alexnet"]
CMD ["--help"]
